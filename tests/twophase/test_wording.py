from twophase import wording
from twophase.config import Config


def test_caption_says_what_batch_norm_does_after_the_switch():
    caption = wording.captions(Config(), "float32")["linear"]
    assert "batch norm frozen with statistics re-estimated at t, momentum reset" in caption
