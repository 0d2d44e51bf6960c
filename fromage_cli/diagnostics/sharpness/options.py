"""What can be asked of `sharpness` beside the options that commands share."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated

import typer

from fromage_cli.errors import UsageError
from fromage_cli.terminal.optimizer_options import require
from fromage_cli.terminal.options import OutputOptions, PlotArgument

if TYPE_CHECKING:
    from fromage_cli.diagnostics.sharpness.cost import Request


@dataclass(frozen=True)
class CurvatureOptions:
    """Which curvatures are measured, how exactly, and whether they are drawn."""

    top: Annotated[
        int, typer.Option("--top", metavar="K", min=1, help="How many of the largest eigenvalues to find.")
    ] = 1
    blocks: Annotated[bool, typer.Option("--blocks", help="Also measure the sharpness of each layer alone.")] = False
    simulate: Annotated[
        int,
        typer.Option(metavar="N", min=0, help="Train N steps in a quadratic model; 0 leaves it out."),
    ] = 16
    tolerance: Annotated[
        float, typer.Option(metavar="T", help="Stop where the residual is below T × the eigenvalue.")
    ] = 1e-3
    max_iterations: Annotated[
        int, typer.Option(metavar="N", min=1, help="Most Hessian products for each eigenvalue.")
    ] = 200
    plot: PlotArgument = None

    def check(self, output: OutputOptions) -> None:
        """Raises UsageError for a number out of range, or a table of what is not measured."""
        require("--tolerance", self.tolerance, 0.0 < self.tolerance < 1.0, "a number between 0 and 1")
        if output.table == "blocks" and not self.blocks:
            raise UsageError("--table blocks shows what --blocks measures, which is not given.", "Add --blocks.")

    def request(self, batch_rows: int | None) -> "Request":
        """How far the measurement is to go."""
        from fromage_cli.diagnostics.sharpness.cost import Request

        return Request(self.top, self.tolerance, self.max_iterations, batch_rows, self.simulate, self.blocks)
