"""Which users are held out: a salted hash of the outside id, the same in every period, run and machine."""

import hashlib

SALT = "metapers-1"
FOLDS = 5
SPLITS = ("train", "validation", "test")


def _digest(user_id: str) -> bytes:
    return hashlib.sha256(f"{SALT}:{user_id}".encode()).digest()


def _number(user_id: str) -> int:
    return int.from_bytes(_digest(user_id)[:8], "big")


def user_hash(user_id: str) -> str:
    """The name a user goes by in records: the first 16 hex digits of sha256("metapers-1:<id>").

    >>> user_hash("1")
    'bac40eb6b5d8868d'
    """
    return _digest(user_id).hex()[:16]


def fold_of(user_id: str) -> int:
    """The one fold of 0..4 in which the user is tested: h mod 5, h the first 8 bytes of the hash, big end first.

    >>> fold_of("1"), fold_of("alice")
    (0, 3)
    """
    return _number(user_id) % FOLDS


def split_of(user_id: str, fold: int) -> str:
    """``test`` in the user's own fold; else ``validation`` for one user in eight (h // 5 mod 8 = 0); else ``train``.

    Raises ValueError for a ``fold`` outside 0..4.

    >>> [split_of("1", fold) for fold in range(3)], [split_of("2", fold) for fold in range(3)]
    (['test', 'train', 'train'], ['test', 'validation', 'validation'])
    """
    if not 0 <= fold < FOLDS:
        raise ValueError(f"fold must be between 0 and {FOLDS - 1}, got {fold}")
    number = _number(user_id)
    if number % FOLDS == fold:
        return "test"
    return "validation" if (number // FOLDS) % 8 == 0 else "train"
