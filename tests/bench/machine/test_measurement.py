import pytest

from prn_fast.bench.machine.measurement import command_line


@pytest.mark.parametrize(
    ("argument", "kept"),
    [
        ("/data/of/mine/a.prn", "a.prn"),
        ("--json=/tmp/a.json", "--json=a.json"),
        ("dir:/data/web?line_rate=5/2", "'dir:web?line_rate=5/2'"),
        ("runs/a.prn", "runs/a.prn"),
        ("grpc://127.0.0.1:8001/tiles", "grpc://127.0.0.1:8001/tiles"),
        ("--batch", "--batch"),
    ],
)
def test_a_recorded_command_names_no_folder_of_the_machine(argument, kept):
    assert command_line("prn_fast.bench.x", [argument, "8"]) == f"python -m prn_fast.bench.x {kept} 8"
