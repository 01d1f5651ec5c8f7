"""Receipts: secrets that are shown once, written down or read out, and typed in again for a withdrawal."""

import hashlib
import secrets
import unicodedata

# Crockford's base 32: no I, L, O and U, so that a receipt can be read out and typed. 25 digits are 125 bits.
_DIGITS = "0123456789ABCDEFGHJKMNPQRSTVWXYZ"
_LENGTH, _GROUP = 25, 5
_MISREAD = str.maketrans({"I": "1", "L": "1", "O": "0"})


def new_receipt() -> str:
    """A receipt that nobody can guess: `12345-6789A-BCDEF-GHJKM-NPQRS`, base 32."""
    digits = "".join(secrets.choice(_DIGITS) for _ in range(_LENGTH))
    return "-".join(digits[start : start + _GROUP] for start in range(0, _LENGTH, _GROUP))


def receipt_sha256(receipt: str) -> str:
    """SHA-256 of a receipt's digits, as 64 hexadecimal digits: all that is stored of it.

    Args:
        receipt: as somebody typed it; case, hyphens and spaces do not count.
    """
    digits = "".join(filter(str.isalnum, unicodedata.normalize("NFKC", receipt).upper()))
    return hashlib.sha256(digits.translate(_MISREAD).encode()).hexdigest()
