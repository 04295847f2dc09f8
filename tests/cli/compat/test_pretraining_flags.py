import pytest

from nip.cli.compat import pretraining_flags as original_pretraining
from nip.cli.compat.pretraining_flags import today


@pytest.mark.parametrize(
    ("gpu", "bf16", "precision"), [(True, True, "fp16"), (False, True, "bf16"), (False, False, "fp32")]
)
def test_fp16_of_the_original_needs_a_gpu(gpu, bf16, precision, monkeypatch):
    monkeypatch.setattr(original_pretraining.torch.accelerator, "is_available", lambda: gpu)
    monkeypatch.setattr(original_pretraining, "computes_bf16", lambda: bf16)
    found, notices = today([("fp16", None)])
    assert found == [("precision", precision)]
    assert notices == ([] if gpu else [f"--fp16 needs a GPU: it is --precision {precision} here."])
    assert today([("fp16", "false")]) == ([], [])
