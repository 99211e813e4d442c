"""Parts of a state: what patterns choose, what a merge takes, keeps, ignores and drops."""

from collections import OrderedDict

import pytest
import torch
from torch import nn

from deeptrain.checkpoint.format import read_checkpoint, write_checkpoint
from deeptrain.checkpoint.partial import Report, merge, require_shapes, select, written_as
from deeptrain.state import tree
from deeptrain.state.tree import UnknownPathError

STATE = {
    "version": 1,
    "model": {"a.weight": 1, "a.bias": 2, "b": {"x": 3}},
    "optimizer": {"state": {0: {"step": 1}, 1: {"step": 2}}, "param_groups": [{"lr": 0.1}, {"lr": 0.2}]},
}


def state(**changes):
    return {**STATE, **changes}


# ---------------------------------------------------------------------- choosing


@pytest.mark.parametrize(
    ("only", "skip", "paths"),
    [
        (["model"], [], ["version", "model.a\\.weight", "model.a\\.bias", "model.b.x"]),
        (["model.*"], [], ["version", "model.a\\.weight", "model.a\\.bias", "model.b.x"]),
        ("model.b", [], ["version", "model.b.x"]),
        (["model.a*"], ["*.a\\.bias"], ["version", "model.a\\.weight"]),
        ([], ["optimizer.*", "model.b"], ["version", "model.a\\.weight", "model.a\\.bias"]),
        (["optimizer.state.*.step"], [], ["version", "optimizer.state.0.step", "optimizer.state.1.step"]),
        ([], ["model", "optimizer.state.1"], ["version", "optimizer.state.0.step", "optimizer.param_groups.0.lr",
                                            "optimizer.param_groups.1.lr"]),
    ],
)  # fmt: skip
def test_what_patterns_choose(only, skip, paths):
    chosen = select(STATE, only=only, skip=skip)
    assert [path for path, _ in tree.walk(chosen)] == paths
    assert all(tree.get(chosen, path) == tree.get(STATE, path) for path in paths)
    assert len(list(tree.walk(STATE))) == 8


def test_without_patterns_the_tree_is_the_same_object():
    assert select(STATE) is STATE


def test_a_tree_keeps_its_types_and_its_tensors():
    weight = torch.ones(2)
    found = select({"m": OrderedDict(a=weight, b=1), "n": (1, 2)}, skip=["m.b"])
    assert type(found["m"]) is OrderedDict
    assert found["m"]["a"] is weight
    assert found["n"] == (1, 2)


@pytest.mark.parametrize("argument", ["only", "skip"])
def test_a_pattern_that_matches_nothing_names_near_paths(argument):
    with pytest.raises(UnknownPathError, match=rf"{argument}=.*near it there are .*optimizer\.param_groups"):
        select(STATE, **{argument: ["optimizer.parm_groups"]})
    with pytest.raises(KeyError, match=rf"{argument}=.*near it there are .*model"):
        merge(STATE, STATE, **{argument: ["modl"]})


def test_patterns_are_strings():
    with pytest.raises(TypeError, match=r"only=\[3\]: expected paths"):
        select(STATE, only=[3])


def test_a_list_keeps_its_places_or_is_left_out():
    groups = {"groups": [{"lr": 0.1, "eps": 1}, {"lr": 0.2, "eps": 2}], "x": (1, 2)}
    assert select(groups, skip=["groups.*.lr"])["groups"] == [{"eps": 1}, {"eps": 2}]
    assert select(groups, skip=["groups.*.*"]) == {"x": (1, 2)}
    with pytest.raises(ValueError, match="groups: only a part of this list of 2"):
        select(groups, skip=["groups.0"])
    with pytest.raises(ValueError, match="x: only a part of this tuple of 2"):
        select(groups, only=["x.1"])
    with pytest.raises(ValueError, match="leave nothing"):
        select(groups, skip=["*"])


def test_values_in_a_list_that_were_not_saved_are_kept():
    skip = ["optimizer.param_groups.*.lr"]
    present = {"optimizer": {"param_groups": [{"lr": 0.1, "eps": 1}, {"lr": 0.2, "eps": 2}]}}
    saved = {"optimizer": {"param_groups": [{"lr": 5.0, "eps": 5}, {"lr": 6.0, "eps": 6}]}}
    merged, _ = merge(present, select(saved, skip=skip), written={"only": [], "skip": skip})
    assert merged == {"optimizer": {"param_groups": [{"lr": 0.1, "eps": 5}, {"lr": 0.2, "eps": 6}]}}


# ---------------------------------------------------------------------- merging


def test_what_is_chosen_is_the_saved_one_and_all_else_the_present_one():
    saved = state(
        model={"a.weight": 10, "a.bias": 20, "b": {"x": 30}}, optimizer={"state": {}, "param_groups": []}
    )
    merged, report = merge(STATE, saved, only=["model.*"], skip=["model.b"])
    assert merged == state(model={"a.weight": 10, "a.bias": 20, "b": {"x": 3}})
    assert report.loaded == ["model.a\\.weight", "model.a\\.bias"]
    assert "model.b.x" in report.kept
    assert "model.b.x" in report.ignored
    assert "optimizer.state.0.step" in report.kept
    assert STATE["model"]["a.weight"] == 1


def test_inside_lists_of_one_length_single_values_are_kept():
    saved = state(optimizer={"state": {0: {"step": 9}}, "param_groups": [{"lr": 5.0}, {"lr": 6.0}]})
    merged, report = merge(STATE, saved, only=["optimizer"], skip=["optimizer.param_groups.*.lr"])
    assert merged["optimizer"] == {"state": {0: {"step": 9}}, "param_groups": [{"lr": 0.1}, {"lr": 0.2}]}
    assert report.dropped == ["optimizer.state.1.step"]
    assert str(report).startswith(
        "loaded optimizer.state.0.step; kept 5 values (3 of model, 2 of optimizer); "
    )


def test_lists_of_other_lengths_are_taken_whole_or_refused():
    longer = state(optimizer={"state": {}, "param_groups": [{"lr": 1.0}]})
    assert merge(STATE, longer, only=["optimizer"])[0]["optimizer"] == longer["optimizer"]
    with pytest.raises(ValueError, match=r"optimizer\.param_groups: found a list of 1, expected a list of 2"):
        merge(STATE, longer, only=["optimizer.param_groups.0"])


def test_what_grew_in_training_comes_and_goes_and_what_the_trainer_was_made_with_stays():
    present = {"callbacks": {"A": {"seen": {"x": 1}}, "B": {}}, "history": {"series": {"old": 1}}}
    saved = {"callbacks": {"A": {"seen": {"y": 2}}, "C": {"n": 1}}, "history": {"series": {"new": 2}}}
    merged, report = merge(present, saved)
    assert merged == {"callbacks": {"A": {"seen": {"y": 2}}, "B": {}}, "history": {"series": {"new": 2}}}
    assert report == Report(
        loaded=["callbacks.A.seen.y", "history.series.new"],
        kept=["callbacks.B"],
        ignored=["callbacks.C.n"],
        dropped=["callbacks.A.seen.x", "history.series.old"],
    )


def test_a_modules_names_stay_and_an_empty_optimizer_is_filled():
    model = nn.Linear(2, 1)
    saved = {
        "model": {"weight": torch.ones(1, 2), "more": torch.ones(1)},
        "optimizer": {"state": {0: {"step": 3}}},
    }
    merged, report = merge({"model": model.state_dict(), "optimizer": {"state": {}}}, saved)
    assert sorted(merged["model"]) == ["bias", "weight"]
    assert type(merged["model"]) is OrderedDict
    assert merged["optimizer"]["state"] == {0: {"step": 3}}
    assert (report.kept, report.ignored) == (["model.bias"], ["model.more"])


def test_a_full_container_is_emptied_by_an_empty_one():
    merged, report = merge({"a": {"x": {1: 2}}}, {"a": {"x": {}}}, only=["a.x"])
    assert merged == {"a": {"x": {}}}
    assert (report.loaded, report.dropped) == (["a.x"], ["a.x.1"])


def test_what_was_not_saved_is_no_sign_that_there_was_none():
    saved = select(STATE, skip=["optimizer.state"])
    merged, report = merge(STATE, saved, written={"only": [], "skip": ["optimizer.state"]})
    assert merged == STATE
    assert report.kept == ["optimizer.state.0.step", "optimizer.state.1.step"]
    merged, _ = merge(STATE, saved)  # such a state, saved whole, had none
    assert "state" not in merged["optimizer"]


def test_only_what_the_saved_state_has_can_be_asked_for():
    saved = select(STATE, only=["model"])
    with pytest.raises(UnknownPathError, match="in the saved state; its first level is version, model"):
        merge(STATE, saved, only=["optimizer"])
    merge(STATE, saved, skip=["optimizer"])
    with pytest.raises(ValueError, match="nothing would be loaded"):
        merge({"a": 1}, {"b": 2}, only=["b"])


def test_parts_of_another_version_are_refused():
    newer = {"random": {"version": 2, "streams": {"a": 1}}, "model": 5}
    present = {"random": {"version": 1, "streams": {"a": 0}}, "model": 4}
    with pytest.raises(ValueError, match=r"random\.version: found 2, expected 1"):
        merge(present, newer, only=["random.streams"])
    assert merge(present, newer, only=["model"])[0] == {**present, "model": 5}
    assert merge(present, newer, only=["random"])[0]["random"] == newer["random"]  # for its owner to refuse


# ---------------------------------------------------------------------- tensors


def tied():
    weight = torch.zeros(2, 2)
    return {"model": OrderedDict(first=weight, second=weight, head=torch.zeros(2))}


@pytest.mark.parametrize("only", ["model.first", "model.second", "model"])
def test_tied_tensors_stay_tied(only):
    new = torch.ones(2, 2)
    saved = {"model": OrderedDict(first=new, second=new, head=torch.ones(2))}
    merged, report = merge(tied(), saved, only=[only])
    assert merged["model"]["first"] is merged["model"]["second"] is new
    assert {"model.first", "model.second"} <= set(report.loaded)
    assert not {"model.first", "model.second"} & set(report.kept)


def test_two_values_for_one_tensor_are_refused():
    saved = {"model": OrderedDict(first=torch.ones(2, 2), second=torch.zeros(2, 2), head=torch.ones(2))}
    with pytest.raises(ValueError, match=r"model\.second.*the same tensor as model\.first"):
        merge(tied(), saved)
    merged, _ = merge(tied(), saved, skip=["model.second"])
    assert torch.equal(merged["model"]["second"], torch.ones(2, 2))


def test_ties_survive_being_saved_in_part(tmp_path):
    write_checkpoint(tmp_path / "c", select(tied(), only=["model.second", "model.first"]), {})
    found = read_checkpoint(tmp_path / "c")[0]["model"]
    assert found["first"] is found["second"]


def test_other_shapes_of_parameters_are_named():
    present = {"model": {"w": torch.ones(2, 3), "cache": torch.ones(2)}, "x": torch.ones(1)}
    saved = {"model": {"w": torch.ones(2, 4), "cache": torch.ones(5)}, "x": torch.ones(1)}
    parameters = {present["model"]["w"].data_ptr()}
    with pytest.raises(
        ValueError, match=r"model\.w: found tensor float32 \[2, 4\], expected .*\[2, 3\]"
    ) as error:
        require_shapes(present, saved, parameters)
    assert "cache" not in str(error.value)
    require_shapes(present, present, parameters)


@pytest.mark.parametrize("said", [3, [], {}, {"only": "model", "skip": []}, {"only": [1], "skip": []}])
def test_what_a_checkpoint_says_of_its_parts_is_checked(said):
    with pytest.raises(ValueError, match="partial"):
        written_as({"partial": said})
    assert written_as({}) is None
    assert written_as({"partial": {"only": [], "skip": ["a"]}}) == {"only": [], "skip": ["a"]}
