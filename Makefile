# Thin names over run.sh, which does the work and explains itself: ./run.sh help. Pass more with ARGS="...".
.PHONY: help setup demo test lint types bench

help:
	@./run.sh help

setup demo test lint types bench:
	@./run.sh $@ $(ARGS)
