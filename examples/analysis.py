"""How far the parts of a run moved, and what growth disturbed, from Python: `python examples/analysis.py runs/tiny`.

The table has one row for each part and checkpoint; what its columns mean stands in `pli_analysis.metrics.drift`.
"""

import argparse

from pli_analysis import disturbance, drift, open_run


def main() -> None:
    """Say of each layer how far it has moved, and which heads have moved most for what their basis leaves open."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("run", help="a run's folder")
    arguments = parser.parse_args()
    run = open_run(arguments.run)

    layers = drift(run)
    now = layers[layers["checkpoint"] == layers["checkpoint"].iloc[-1]]
    columns = [
        "part",
        "age",
        "relative_l2",
        "cosine_distance",
        "path_length",
        "path_efficiency",
        "relative_update_rate",
    ]
    print(now[columns].to_string(index=False))

    clones = now.dropna(subset="donor_distance")
    for row in clones.itertuples():
        print(f"layer {row.part} is {row.donor_distance:.2f} of its donor's norm away from layer {row.donor}")

    heads = drift(run, "head", gauge=True)
    last = heads[heads["step"] == heads["step"].max()].sort_values("qk_distance")
    most = last.iloc[-1]
    print(f"what head {most['part']} attends to has changed most: QK by {most['qk_distance']:.2f} of its norm")

    found = disturbance(run)
    for event in found.events.itertuples():
        print(f"{event.event} at step {event.step}: {event.flips:.0%} of predictions changed on the spot")
    moved = found.layers.dropna(subset="excess_log_update_rate")
    columns = ["step", "event", "layer", "layers_from_event", "excess_log_update_rate", "score", "p"]
    print(moved[columns].to_string(index=False))


if __name__ == "__main__":
    main()
