# demo: record a tiny model and explain it.  test: all tests.  check: style, types, architecture.
.PHONY: demo test check setup setup-test

demo: setup
	@.venv/bin/slmtrace run

test: setup-test
	.venv/bin/python -m pytest $(PYTEST_FLAGS)

check: setup-test
	.venv/bin/ruff format --check .
	.venv/bin/ruff check .
	.venv/bin/mypy
	MYPYPATH=tools/gpu .venv/bin/mypy tools/gpu/*.py
	.venv/bin/lint-imports

setup:
	@tools/setup run

setup-test:
	@tools/setup test
