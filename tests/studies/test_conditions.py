"""What is said about how results came about: equal, differs, not known."""

from typing import Any

from segnl.studies.conditions import Condition, Training, conditions

RECIPE = {"data.root": "a", "data.name": "x", "data.crop_hw": [3, 5], "train.max_steps": 4, "model.head.name": "fcn"}


def training(*, seed: int = 0, is_known: bool = True, batches: dict[int, str] | None = None, **keys: Any) -> Training:
    flat = RECIPE | {key.replace("__", "."): value for key, value in keys.items()}
    return Training(flat, flat, seed, is_known, {} if batches is None else batches)


def stated(**models: Any) -> dict[str, Condition]:
    return {own.aspect: own for own in conditions(models)}


def test_a_key_belongs_to_the_aspect_that_names_it_most_closely() -> None:
    said = stated(a=[training()], b=[training(data__crop_hw=[7, 7], model__head__name="rcca")])
    assert said["crops and augmentation"].state == said["head"].state == "differs"
    assert said["head"].detail == "model.head.name: a fcn, b rcca"
    assert said["training data"].state == said["other parts of the network"].state == "equal"
    assert said["seeds"] == Condition("seeds", "equal", "0")


def test_equal_recipes_on_other_folders_say_nothing_about_the_data() -> None:
    said = stated(a=[training()], b=[training(data__root="b")])["training data"]
    assert (said.state, said.detail) == ("not known", "the folders differ: a a, b b")


def test_counts_and_imported_weights_leave_everything_unknown_but_the_scored_images() -> None:
    for other in (None, training(is_known=False)):
        said = stated(a=[training()], b=[other])
        first, *rest = said.values()
        assert first.state == "equal"
        assert {own.state for own in rest} == {"not known"}
        assert {own.detail for own in rest} == {"nothing is recorded for b"}


def test_a_difference_between_two_is_said_though_a_third_is_unknown() -> None:
    said = stated(a=[training()], b=[training(train__max_steps=9)], c=[None])["training steps and batch size"]
    assert said.state == "differs"
    assert said.detail == "train.max_steps: a 4, b 9; nothing is recorded for c"


def test_batches_of_equal_seeds_are_compared_in_the_steps_that_both_have() -> None:
    aspect = "training batches of equal seeds"
    a = training(batches={1: "x", 2: "y"})
    assert stated(a=[a], b=[training(batches={1: "x", 2: "y", 3: "z"})])[aspect].state == "equal"
    differs = stated(a=[a], b=[training(batches={1: "x", 2: "z"})])[aspect]
    assert (differs.state, differs.detail) == ("differs", "from step 2 on, by the hashes in log.jsonl")
    assert stated(a=[a], b=[training()])[aspect].state == "not known"
    assert aspect not in stated(a=[a], b=[training(seed=1)])
