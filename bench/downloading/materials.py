"""What the server serves: distinct JPEGs of about 50 KB, and a certificate of a made-up authority."""

from __future__ import annotations

import ssl
import subprocess
from pathlib import Path

import numpy as np

WIDTH, HEIGHT = 512, 400


def make(folder: Path, count: int) -> None:
    """Pictures and certificate in `folder`; what is there already is kept."""
    (folder / "pictures").mkdir(parents=True, exist_ok=True)
    for number in range(count):
        path = folder / "pictures" / f"{number:05d}.jpg"
        if not path.exists():
            path.write_bytes(picture(number))
    if not (folder / "bundle.pem").exists():
        _certificate(folder)


def picture(number: int) -> bytes:
    """A JPEG of about 50 KB: smooth shapes with the fine grain of a photograph."""
    import cv2

    random = np.random.default_rng(number)
    smooth = cv2.resize(random.integers(0, 256, (6, 8, 3), np.uint8), (WIDTH, HEIGHT), interpolation=cv2.INTER_CUBIC)
    grain = cv2.GaussianBlur(random.normal(0, 22, (HEIGHT, WIDTH, 1)).astype(np.float32), (0, 0), 0.8)
    pixels = np.clip(smooth + grain[:, :, None], 0, 255).astype(np.uint8)
    return cv2.imencode(".jpg", pixels, [cv2.IMWRITE_JPEG_QUALITY, 88])[1].tobytes()


def _certificate(folder: Path) -> None:
    """key.pem, certificate.pem, and bundle.pem: the system's authorities and ours, as a real client would load."""
    command = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "30", "-subj", "/CN=localhost"]
    command += ["-addext", "subjectAltName=DNS:localhost", "-keyout", "key.pem", "-out", "certificate.pem"]
    subprocess.run(command, cwd=folder, check=True, capture_output=True)
    system = Path(ssl.get_default_verify_paths().cafile or _certifi())
    (folder / "bundle.pem").write_bytes(system.read_bytes() + b"\n" + (folder / "certificate.pem").read_bytes())


def _certifi() -> str:
    import certifi

    return certifi.where()
