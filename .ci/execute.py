#!/usr/bin/env python3
"""Executes notebooks and stores them as the site and GitHub show them.

    python .ci/execute.py notebooks/11_*.ipynb

Needs the extra `notebooks`, torch for the second half of 12, and a machine with nothing else to do
for notebooks that measure times. Progress bars are left out of what is stored, and the picture that
README.md shows of each notebook is written anew.
"""

import base64
import pathlib
import sys

import nbclient
import nbformat


def pictures_of(notebook):
    """Returns the bytes of all pictures of a notebook, in order."""
    outputs = [output for cell in notebook.cells for output in cell.get("outputs", [])]
    pictures = [output.get("data", {}).get("image/png") for output in outputs]
    return [base64.b64decode(each) for each in pictures if each]


def is_progress(output):
    """Tells whether an output is what a progress bar leaves behind: a widget, or an empty text."""
    data = output.get("data", {})
    widget = "application/vnd.jupyter.widget-view+json" in data
    return widget or set(data) <= {"text/plain", "text/html"} and data.get("text/plain") == ""


def execute(path):
    """Executes one notebook in its folder, and writes it and its picture."""
    notebook = nbformat.read(path, as_version=4)
    shown = path.parent / "pictures" / f"{path.stem}.png"
    before, old = pictures_of(notebook), shown.read_bytes() if shown.exists() else None
    # The last picture, unless it was another one.
    index = before.index(old) if old in before else -1
    client = nbclient.NotebookClient(
        notebook, timeout=1200, kernel_name="python3", resources={"metadata": {"path": path.parent}}
    )
    client.execute()
    notebook.metadata["language_info"] = {"name": "python"}
    notebook.metadata.pop("widgets", None)
    for cell in notebook.cells:
        cell.metadata.pop("execution", None)
        if "outputs" in cell:
            cell.outputs = [each for each in cell.outputs if not is_progress(each)]
    nbformat.write(notebook, path)
    shown.write_bytes(pictures_of(notebook)[index])


for name in sys.argv[1:]:
    print(name, flush=True)
    execute(pathlib.Path(name))
