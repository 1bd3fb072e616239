"""From results to what people read: pictures beside them, tables in the documents."""

from pathlib import Path

from comparison import tables
from comparison.plots import plot
from comparison.results import Results
from comparison.rounds import LONGER

ROOT = Path(__file__).parents[2]
DETAILS = ROOT / "docs" / "speed.md"


def publish(results: Results, folder: Path) -> list[Path]:
    """Write the pictures into a folder, the summary into the README, all figures into the docs.

    Returns:
        the files that were written.

    Raises:
        ValueError: the folder is not within the repository, where the documents could show it.
    """
    workloads = sorted({visit.workload for visit in results.visits})
    pictures = [folder / f"{workload}.svg" for workload in workloads]
    for workload, picture in zip(workloads, pictures, strict=True):
        plot(results, workload, picture)
    _put(ROOT / "README.md", "speed", f"{tables.summary(results)}\n\n{circumstances(results)}")
    _put(DETAILS, "circumstances", circumstances(results))
    _put(DETAILS, "absent", tables.absent(results))
    for workload, picture in zip(workloads, pictures, strict=True):
        shown = Path("..") / picture.resolve().relative_to(ROOT)
        image = f"![{workload}: latency against requests/s]({shown})"
        _put(DETAILS, workload, f"{image}\n\n{tables.details(results, workload)}")
    return [*pictures, ROOT / "README.md", DETAILS]


def circumstances(results: Results) -> str:
    """Say when and where."""
    machine = results.machine
    longer = ", ".join(f"{name}: {times * results.seconds:g} s" for name, times in LONGER.items())
    return (
        f"{results.date[:10]}, {machine['processor']} ({machine['instructions']}), "
        f"{machine['cores']} cores, torch {machine['torch']}, Python {machine['python']}: medians "
        f"of {results.rounds} rounds of {results.seconds:g} s each ({longer}), wrk on the same "
        f"machine."
    )


def _put(path: Path, marker: str, content: str) -> None:
    text = tables.put(path.read_text(encoding="utf-8"), marker, content)
    path.write_text(text, encoding="utf-8")
