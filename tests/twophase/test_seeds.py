import torch

from twophase import seeds


def test_a_name_always_means_the_same_numbers():
    """Written down, because runs of last year have to resume: blake2b of the name, then mt19937."""
    assert seeds.number(0, "init") == 3912388711783151084
    drawn = torch.rand(2, generator=seeds.generator(0, "init"))
    torch.testing.assert_close(drawn, torch.rand(2, generator=seeds.generator(0, "init")))


def test_every_part_of_a_name_counts():
    names = [(0, "a"), (1, "a"), (0, "b"), (0, "a", 0), (0, "a", 1), (0, "a", 1, 0), (0, "a", 10)]
    assert len({seeds.number(*name) for name in names}) == len(names)


def test_the_global_generator_is_left_alone():
    before = torch.get_rng_state()
    torch.rand(5, generator=seeds.generator(3, "x"))
    assert torch.equal(before, torch.get_rng_state())
