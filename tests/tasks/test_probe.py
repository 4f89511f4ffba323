"""The probe of in-window retrieval: its questions fit the window, and it leaves the model as is."""

import pytest

from cream.tasks import probe


def test_skills_fill_the_window_with_their_answers(haystack, tiny_tokenizer):
    asked = probe.skills(tiny_tokenizer, 512, 6, haystack)
    assert list(asked) == ["lines", "pairs", "needle"]
    for _, examples in asked.values():
        assert len(examples) == 6
        for example in examples:
            text = example.prompt + example.target
            assert 0.95 * 512 < len(tiny_tokenizer(text)["input_ids"]) <= 512


@pytest.mark.parametrize("training", [True, False])
def test_the_probe_measures_and_leaves_the_model_as_it_was(training, tiny_model, tiny_tokenizer):
    model = tiny_model(256).train(training)
    model.config.use_cache = False
    found = probe.in_window_retrieval(model, tiny_tokenizer, samples=2)
    assert found == {"lines": 0.0, "pairs": 0.0, "n": 2}
    assert model.training is training and model.config.use_cache is False


def test_a_model_that_knows_the_answers_scores(monkeypatch, tiny_model, tiny_tokenizer):
    def oracle(model, tokenizer, prompts, *_, **__):
        from cream.inference.generation import Completion

        asked = probe.skills(tokenizer, 256, 4, seed=1).values()
        answers = {e.prompt: e.target for _, examples in asked for e in examples}
        return [Completion(i, answers[prompt], 1) for i, prompt in enumerate(prompts)]

    monkeypatch.setattr(probe, "greedy", oracle)
    found = probe.in_window_retrieval(tiny_model(256), tiny_tokenizer, samples=4)
    assert found == {"lines": 1.0, "pairs": 1.0, "n": 4}
