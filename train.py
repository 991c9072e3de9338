"""Trains every arm of a config, period by period, into a workdir: python train.py --config=… --workdir=…"""

from metapers.command import train_main

if __name__ == "__main__":
    train_main()
