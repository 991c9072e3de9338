"""Trains every strategy of a config, stage by stage, into a workdir: python train.py --config=… --workdir=…"""

from metapers.command import train_main

if __name__ == "__main__":
    train_main()
