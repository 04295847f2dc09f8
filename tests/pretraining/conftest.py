import pytest

from lra_runs import one_thread  # noqa: F401
from nip.data.corpus import Settings, Vocabulary, build_corpus
from text_corpora import write_texts


@pytest.fixture(scope="session")
def corpora(tmp_path_factory):
    """Two corpora of the same texts: samples of 32 tokens, packed, and masked once in pairs of sentences."""
    folder = tmp_path_factory.mktemp("pretraining")
    texts = write_texts(folder / "texts", n_files=2, per_file=30)
    found = {}
    for name, settings in (
        ("packed", Settings(train_tokenizer=200, max_seq_length=32, frac_test=0.2)),
        (
            "pairs",
            Settings(
                train_tokenizer=200,
                max_seq_length=32,
                frac_test=0.2,
                masked_once=True,
                next_sentence=True,
                dup_factor=1,
                max_predictions_per_seq=5,
            ),
        ),
    ):
        build_corpus(str(texts), folder / name, settings)
        found[name] = folder / name
    return found


@pytest.fixture(scope="session")
def vocabulary():
    return Vocabulary(size=61, pad=0, cls=2, sep=3, mask=4, special=(0, 1, 2, 3, 4))
