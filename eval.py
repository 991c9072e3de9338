"""Judges a workdir's versions on held-out users and writes the report: python eval.py --workdir=…"""

from metapers.command import eval_main

if __name__ == "__main__":
    eval_main()
