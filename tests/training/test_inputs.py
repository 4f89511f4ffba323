"""What a run reads: where its base lies. What does not fit is refused in test_config."""

import training_runs

from cream.training.inputs import base_place, load_inputs


def test_a_folder_is_read_from_the_root(tmp_path):
    (tmp_path / "base").mkdir()
    assert base_place("base", tmp_path) == str(tmp_path / "base")


def test_a_name_beside_an_existing_folder_is_a_missing_folder(tmp_path):
    """And not a model of the hub, which would be asked for it."""
    (tmp_path / "data").mkdir()
    assert base_place("data/typo", tmp_path) == str(tmp_path / "data" / "typo")


def test_any_other_name_is_the_hubs(tmp_path):
    assert base_place("meta-llama/Llama-2-7b-hf", tmp_path) == "meta-llama/Llama-2-7b-hf"
    assert base_place("gpt2", tmp_path) == "gpt2"


def test_examples_are_as_many_as_the_steps_take(training_place):
    config = training_runs.config(steps=3, batch_size=4)
    extended, tokenizer, dataset = load_inputs(config, training_place)
    assert len(dataset) == 12
    assert len(dataset[0]["input_ids"]) == dataset.draw.example_length
    assert extended.vocab_size >= len(tokenizer)
