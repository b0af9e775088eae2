# Thin names over run.sh, which does the work and explains itself: ./run.sh help. Pass more with ARGS="...".
.PHONY: help setup demo test lint types docs bench calibrate torture
# make bench-ops, bench-loss, bench-eval, bench-train, bench-data: one benchmark each, and docs/performance.md made anew from its result file.

help:
	@./run.sh help

setup demo test lint types docs bench calibrate:
	@./run.sh $@ $(ARGS)

bench-%:
	@./run.sh bench $* $(ARGS)
	@./run.sh python benchmarks/pages.py

torture:
	@./run.sh bench torture $(ARGS)
