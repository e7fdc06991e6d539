"""Leaked photographs are found however they were changed, and others are not: scikit-image's, as in the bench."""

from bench.curating.decontaminate import false_hits, photographs, recall

NAMES = ("astronaut.png", "camera.png", "chelsea.png", "clock_motion.png", "coffee.png", "coins.png", "rocket.jpg")


def test_changes_that_are_found_and_pictures_that_are_not_taken_for_each_other():
    pictures = {name: picture for name, picture in photographs().items() if name in NAMES}
    assert len(pictures) == len(NAMES)
    shares = recall(pictures)["shares"]
    assert {change for change, share in shares.items() if share < 1} <= {"mirrored", "cropped 10% on one side"}
    assert shares["mirrored"] == 0  # takes embeddings
    found = false_hits(pictures, "photographs")
    assert (found["count"], found["pairs"]) == (0, 42) and found["next"] >= 14
