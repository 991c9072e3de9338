"""Evaluates the versions of a workdir on held-out users and writes the report: python eval.py --workdir=…"""

from metapers.command import eval_main

if __name__ == "__main__":
    eval_main()
