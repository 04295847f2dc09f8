from nip.lra.original_log import original_lines


def row(step, split, loss, accuracy, seconds):
    return {"step": step, "split": split, "loss": loss, "accuracy": accuracy, "seconds": seconds}


def test_lines_have_means_best_accuracies_and_times():
    rows = [
        row(1, "train", 3.0, 0.5, 1.0),
        row(2, "train", 1.0, 0.7, 2.0),
        row(2, "dev", 1.5, 0.4, 5.0),
        row(3, "train", 0.5, 0.2, 6.5),
        row(3, "dev", 1.25, 0.3, 7.0),
        row(3, "test", 1.0, 0.9, 9.0),
    ]
    fields = ("train_step_idx", "loss", "accu", "best_accu", "component", "t")
    lines = [tuple(line[field] for field in fields) for line in original_lines(rows)]
    assert lines == [
        (1, 2.0, 0.6, 0.6, "train", 2.0),
        (1, 1.5, 0.4, 0.4, "dev", 3.0),
        (2, 0.5, 0.2, 0.6, "train", 1.5),
        (2, 1.25, 0.3, 0.4, "dev", 0.5),
        (2, 1.0, 0.9, 0.9, "test", 2.0),
    ]


def test_steps_after_the_last_evaluation_are_not_reported_yet():
    assert original_lines([row(1, "train", 3.0, 0.5, 1.0)]) == []
