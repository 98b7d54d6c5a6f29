"""Secrets of the store, encrypted where store.secret is set: AES-256-GCM under a derived key."""

from __future__ import annotations

import base64
import os
from collections.abc import Mapping
from typing import TYPE_CHECKING

from gateway.state.store import StoreError

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.ciphers.aead import AESGCM

NONCE = 12


class Seal:
    """``about`` ties a secret to what it belongs to: copied to another entry it does not open.
    Without ``secret`` nothing is encrypted. Raises StoreError."""

    def __init__(self, secret: str | None) -> None:
        self._secret = secret

    def shut(self, text: str, about: str) -> dict[str, str]:
        """The form in which a secret is kept."""
        if self._secret is None:
            return {"plain": text}
        nonce = os.urandom(NONCE)
        shut = _cipher(self._secret).encrypt(nonce, text.encode(), about.encode())
        return {"sealed": base64.b64encode(nonce + shut).decode()}

    def open(self, kept: Mapping[str, str], about: str) -> str:
        """The secret again."""
        if "plain" in kept:
            return kept["plain"]
        if self._secret is None:
            raise StoreError("it is encrypted, and store.secret is not set: set it as it was")
        data = base64.b64decode(kept["sealed"])
        from cryptography.exceptions import InvalidTag

        try:
            return (
                _cipher(self._secret).decrypt(data[:NONCE], data[NONCE:], about.encode()).decode()
            )
        except InvalidTag:
            raise StoreError(
                "it was encrypted with another store.secret: set that one, or send the key again"
            ) from None


def _cipher(secret: str) -> AESGCM:
    try:
        from cryptography.hazmat.primitives.ciphers.aead import AESGCM
        from cryptography.hazmat.primitives.hashes import SHA256
        from cryptography.hazmat.primitives.kdf.hkdf import HKDF
    except ImportError:
        raise StoreError(
            "store.secret needs the package 'cryptography': install portico with its extra,"
            " pip install 'portico[secrets]'"
        ) from None
    # The secret is long and random, as its documentation asks, so that a slow hash gains nothing.
    key = HKDF(SHA256(), 32, None, b"portico store secrets 1").derive(secret.encode())
    return AESGCM(key)
