"""A notebook and pytest user: routes are tried out in cells, and held by tests."""

import nbformat
from nbclient import NotebookClient
from telling import Story, has, same

story = Story()
step = story.step


@step
def each_cell_of_the_notebook_runs_and_prints_nothing_but_its_answer():
    global notebook
    notebook = nbformat.read("canary.ipynb", as_version=4)
    NotebookClient(notebook, timeout=60, kernel_name="python3").execute()
    for cell in notebook.cells:
        for output in cell.get("outputs", ()):
            assert output.output_type != "stream" or output.name != "stderr", f"{cell.source}\nsays {output.text}"


def _result(part: str) -> str:
    """What the cell with this in its source has answered."""
    [cell] = [cell for cell in notebook.cells if part in cell.source]
    [output] = cell.outputs
    return output.text if output.output_type == "stream" else output.data["text/plain"]


@step
def sync_and_async_clients_answered_by_the_routes_of_the_cluster():
    same(_result("control_plane.apply"), "[]")
    same(_result('"end-user": "jason"'), "'v2'")
    same(_result("await asyncio.gather"), "'v1'")


@step
def the_decision_was_shown_as_data_and_as_a_tree():
    has(_result("for cluster in decision.clusters"), "'outbound|9080|v1|reviews.shop.svc.cluster.local': 0.9")
    has(_result("print(decision)"), "GET http://reviews:9080/reviews/1", "90%", "end-user")


@step
def the_project_is_tested_with_the_fixtures_that_came_with_the_package():
    said = story.run("python", "-m", "pytest", "-q", "tests")
    has(said, "8 passed")
    same([line for line in said.splitlines() if "Warning" in line and "Starlette" not in line], [])


if __name__ == "__main__":
    story.tell()
