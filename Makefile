# Thin names over run.sh, which does the work and explains itself: ./run.sh help. Pass more with ARGS="...".
.PHONY: help setup demo test lint types bench torture

help:
	@./run.sh help

setup demo test lint types bench:
	@./run.sh $@ $(ARGS)

torture:
	@./run.sh bench torture $(ARGS)
