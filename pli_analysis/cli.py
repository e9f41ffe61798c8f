"""The command `pli-analyze`."""

from __future__ import annotations

from pli_analysis.commands.ablation import ablation
from pli_analysis.commands.attention import attention
from pli_analysis.commands.attribution import attribution
from pli_analysis.commands.compare import compare
from pli_analysis.commands.conductance import conductance
from pli_analysis.commands.disturbance import disturbance
from pli_analysis.commands.doctor import doctor
from pli_analysis.commands.drift import drift
from pli_analysis.commands.embed import embed
from pli_analysis.commands.explain import explain
from pli_analysis.commands.figures import figures
from pli_analysis.commands.grad_norms import grad_norms
from pli_analysis.commands.influence import influence
from pli_analysis.commands.lens import lens
from pli_analysis.commands.lineage import lineage
from pli_analysis.commands.ls import ls
from pli_analysis.commands.neurons import neurons
from pli_analysis.commands.outputs import check_outputs_first
from pli_analysis.commands.plugins import commands as plugin_commands
from pli_analysis.commands.probe import probe
from pli_analysis.commands.pruning import pruning
from pli_analysis.commands.report import ReportCommand, report
from pli_analysis.commands.scalars import scalars
from pli_analysis.commands.similarity import similarity
from pli_analysis.commands.sweep import SweepCommand, sweep
from pli_analysis.commands.watch import WatchCommand, watch
from pli_train.core.cli.shell import app_of, run_app

app = app_of("pli-analyze", "Analyze training runs and checkpoints, and measure the effects of growth.")
of_runs = (
    ls,
    lineage,
    drift,
    scalars,
    grad_norms,
    embed,
    similarity,
    ablation,
    pruning,
    lens,
    probe,
    attribution,
    conductance,
    attention,
    neurons,
    influence,
    explain,
    disturbance,
    compare,
)
for command in of_runs:
    app.command()(check_outputs_first(command))
app.command("gradnorms", hidden=True)(check_outputs_first(grad_norms))
app.command(cls=SweepCommand)(sweep)
app.command(cls=ReportCommand)(report)
app.command()(figures)
app.command(cls=WatchCommand)(watch)
app.command()(check_outputs_first(doctor))


def main() -> None:
    """Run `pli-analyze`, with a command for each metric of other packages."""
    for name, command in plugin_commands():
        app.command(name)(check_outputs_first(command))
    run_app(app)


if __name__ == "__main__":
    main()
