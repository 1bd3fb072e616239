"""Learn which modules are imported together, from Python files that are on every machine.

The rows of the table are the source files of the standard library and of torch. A fifth of them is
kept from training, and one import of each is hidden: the hit rate says how often it is among the
first five recommendations.
"""

import argparse
import json
import random
import re
import sys
import sysconfig
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path

import torch
from recommender import VOCABULARY, NextModule, Recommender, SourceFile

FOLDERS = (Path(sysconfig.get_path("stdlib")), Path(torch.__file__).parent)
IMPORT = re.compile(r"\n *(?:from +(\w+)[\w.]* +import|import +([\w., ]+))")
# Of a module that fewer files import, there is nothing to be learnt.
RARE = 5
FIRST = 5
BATCH = 256
KEPT = 0.7

# A file without one of its imports, and that one.
Case = tuple[SourceFile, str]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=400)
    steps = parser.parse_args().steps
    torch.set_num_threads(1)  # the model is too small to share
    training, held_out = split([file for folder in FOLDERS for file in files_in(folder)])
    print(f"{len(training)} files to learn from, {len(held_out)} to test with")
    task, model = train(training, steps)
    save(task, model)
    cases = hide_one_import(task, held_out)
    hits = hit_rate(cases, recommended(task, model, cases))
    popular = hit_rate(cases, most_popular(training, cases))
    print(f"hit rate at {FIRST}: {hits:.1%}; of what is most popular: {popular:.1%}")


def files_in(folder: Path) -> Iterator[SourceFile]:
    for path in sorted(folder.rglob("*.py")):
        inside = path.relative_to(folder).parts
        if "site-packages" in inside:
            continue
        text = path.read_text(encoding="utf-8", errors="replace")
        is_test = any("test" in part for part in inside)
        yield SourceFile(
            kind="test" if is_test else "package" if path.stem == "__init__" else "module",
            lines=1 + text.count("\n"),
            classes=text.count("\nclass "),
            imports=sorted(imports_of(text)),
        )


def imports_of(text: str) -> set[str]:
    """Return the public modules of the standard library that a file imports."""
    named = set()
    for package, several in IMPORT.findall(f"\n{text}"):
        named |= {package} if package else set(re.findall(r"(?:^|,)\s*(\w+)", several))
    return {name for name in named & sys.stdlib_module_names if not name.startswith("_")}


def split(files: Sequence[SourceFile]) -> tuple[list[SourceFile], list[SourceFile]]:
    """Return four fifths and one, by lot."""
    shuffled = random.Random(0).sample(files, len(files))
    border = len(files) * 4 // 5
    return shuffled[:border], shuffled[border:]


def train(files: Sequence[SourceFile], steps: int) -> tuple[NextModule, Recommender]:
    """Have a model guess hidden imports, from some of the others."""
    torch.manual_seed(0)
    counts = Counter(module for file in files for module in file.imports)
    task = NextModule(sorted(module for module, count in counts.items() if count >= RARE))
    model = Recommender(len(task.modules))
    rows = torch.stack([task.decode(file) for file in usable(task, files)])
    optimizer = torch.optim.Adam(model.parameters(), lr=0.02)
    for _ in range(steps):
        batch = rows[torch.randint(len(rows), (BATCH,))]
        hidden = batch[:, 3:].multinomial(1)
        batch.scatter_(1, 3 + hidden, 0)
        batch[:, 3:] *= torch.rand_like(batch[:, 3:]) < KEPT
        logits = model(**task.preprocess(batch))
        loss = torch.nn.functional.cross_entropy(logits, hidden[:, 0])
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
    return task, model.eval()


def usable(task: NextModule, files: Sequence[SourceFile]) -> Iterator[SourceFile]:
    """Yield files with the imports that the task knows, where these are two or more."""
    for file in files:
        imports = [module for module in file.imports if module in task.column]
        if len(imports) > 1:
            yield file.model_copy(update={"imports": imports})


def hide_one_import(task: NextModule, files: Sequence[SourceFile]) -> list[Case]:
    lot = random.Random(0)
    cases = []
    for file in usable(task, files):
        hidden = lot.choice(file.imports)
        left = [module for module in file.imports if module != hidden]
        cases.append((file.model_copy(update={"imports": left}), hidden))
    return cases


@torch.inference_mode()
def recommended(task: NextModule, model: Recommender, cases: Sequence[Case]) -> list[list[str]]:
    rows = torch.stack([task.decode(file) for file, _ in cases])
    best = model(**task.preprocess(rows)).topk(FIRST).indices
    return [[task.modules[column] for column in row] for row in best.tolist()]


def most_popular(training: Sequence[SourceFile], cases: Sequence[Case]) -> list[list[str]]:
    """Return what most files import, for each file less what it imports already."""
    counts = Counter(module for file in training for module in file.imports)
    ranked = [module for module, _ in counts.most_common()]
    return [
        [module for module in ranked if module not in file.imports][:FIRST] for file, _ in cases
    ]


def hit_rate(cases: Sequence[Case], recommendations: Sequence[Sequence[str]]) -> float:
    hits = [hidden in modules for (_, hidden), modules in zip(cases, recommendations, strict=True)]
    return sum(hits) / len(hits)


def save(task: NextModule, model: Recommender) -> None:
    VOCABULARY.parent.mkdir(exist_ok=True)
    VOCABULARY.write_text(json.dumps(task.modules), encoding="utf-8")
    torch.save(model.state_dict(), VOCABULARY.with_name("weights.pt"))


if __name__ == "__main__":
    main()
