# Thin names over run.sh, which does the work and explains itself: ./run.sh help. Pass more with ARGS="...".
.PHONY: help setup demo test lint types bench calibrate

help:
	@./run.sh help

setup demo test lint types bench calibrate:
	@./run.sh $@ $(ARGS)
