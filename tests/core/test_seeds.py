from segnl.core.seeds import seed_for


def test_a_seed_is_the_same_in_every_process():
    assert seed_for(0, "crop", 3, 7) == 8638017397906188263


def test_every_word_counts_and_words_do_not_run_together():
    seeds = {
        seed_for(0, "a"),
        seed_for(1, "a"),
        seed_for(0, "b"),
        seed_for("0", "a"),
        seed_for(0, "a", 1),
        seed_for(0, "a1"),
    }
    assert len(seeds) == 6
    assert all(0 <= seed < 2**63 for seed in seeds)
