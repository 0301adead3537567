"""The fits of benchmarks/latency on made-up rows, where the truth is known."""

from __future__ import annotations

import csv
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

COLUMNS = (
    *("device", "soc_core", "clock", "runtime", "precision", "threads", "model", "input"),
    *("latency_ms", "latency_min_ms", "source", "notes"),
)
FEATURES = ("conv", "pointwise", "memory", "kernels")
TRUTH = np.log(np.array([1.5, 1.0, 9.0, 20_000.0]))


@pytest.fixture(scope="module")
def scripts(root: Path) -> Iterator[dict[str, ModuleType]]:
    """The modules, imported as the scripts import each other."""
    names = (
        "hub",
        "networks",
        "st_zoo",
        "rows",
        "hierarchy",
        "boards",
        "guess",
        "classes",
        "tasks",
        "validate",
        "fit",
        "timm_rows",
    )
    sys.path.insert(0, str(root / "benchmarks" / "latency"))
    try:
        yield {name: __import__(name) for name in names}
    finally:
        sys.path.pop(0)
        for name in names:
            sys.modules.pop(name, None)


@pytest.fixture
def world() -> tuple[np.ndarray, np.ndarray]:
    """Work of 12 networks, and log milliseconds on 24 boards: a factor and small differences."""
    rng = np.random.default_rng(0)
    work = rng.lognormal(0, 1.0, (12, 4)) * np.array([200.0, 300.0, 20.0, 6e-5])
    boards = rng.normal(0, 0.8, (24, 1)) + rng.normal(0, 0.15, (24, 4))
    times = np.log(np.exp(TRUTH + boards) @ work.T) - 8
    return work, times + rng.normal(0, 0.02, times.shape)


def test_unseen_networks_are_predicted(scripts, world) -> None:
    work, times = world
    train = times.copy()
    train[:, 8:] = np.nan
    found = scripts["hierarchy"].fit(work, train, FEATURES)
    guess = np.log(np.exp(found.mean + found.boards) @ work.T)[:, 8:]
    error = np.abs(np.exp(guess - times[:, 8:]) - 1)
    assert np.median(error) < 0.1
    # beside the guess that only knows the sum of the work
    plain = np.log(work.sum(1))[None] + np.nanmean(train - np.log(work.sum(1)), 1)[:, None]
    assert np.median(error) < 0.5 * np.median(np.abs(np.exp(plain[:, 8:] - times[:, 8:]) - 1))


def test_work_that_no_network_has_stays_as_uncertain_as_the_prior(scripts, world) -> None:
    work, times = world
    wider = np.hstack([work, np.zeros((12, 1))])
    found = scripts["hierarchy"].fit(wider, times, (*FEATURES, "matmul"))
    prior, _ = scripts["hierarchy"].prior_of((*FEATURES, "matmul"))
    assert found.mean[4] - found.mean[1] == pytest.approx(prior[4] - prior[1], abs=1.5)
    assert found.covariance[4, 4] >= found.covariance[1, 1] * 0.5


def test_gaps_do_not_hinder_transfer(scripts, world) -> None:
    times = world[1]
    names = [f"n{i}" for i in range(12)]
    rng = np.random.default_rng(1)
    train = np.where(rng.random((20, 12)) < 0.15, np.nan, times[:20])
    mixture = scripts["boards"].fit_mixture(names, train, components=3)
    anchors = mixture.best_anchors(4)
    errors = []
    for board in times[20:]:
        answer = mixture.predict({n: float(np.exp(board[names.index(n)])) for n in anchors})
        errors += [answer[n][0] - board[i] for i, n in enumerate(names) if n not in anchors]
    assert np.sqrt(np.mean(np.square(errors))) < 0.12


def test_rows_are_read_and_grouped(scripts, tmp_path: Path, monkeypatch) -> None:
    rows = scripts["rows"]
    layer = {"layer": "Convolution", "kind": "conv", "macs": 9000, "weights": 90, "in_elems": 100,
             "out_elems": 100, "kernel": 3, "stride": 1, "out_hw": 100, "in_ch": 8,
             "out_ch": 8}  # fmt: skip
    (tmp_path / "ncnn_layers.json").write_text(json.dumps({"net": [layer], "other_net": [layer]}))
    text = "Board Chip RK3399 (Cortex-A72 1.8GHz x 2 + Cortex-A53 1.5GHz x 4)"
    entries = [
        ("net", "11.0", "10.0", "run=1;powersave=2"),
        ("net", "12.0", "", "run=1;powersave=2"),
        ("other-net", "20.0", "", "run=1;powersave=2"),
        ("net", "40.0", "39.0", "run=2;powersave=1"),
    ]
    with (tmp_path / "published_latencies.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, COLUMNS)
        writer.writeheader()
        for model, latency, least, notes in entries:
            writer.writerow(
                dict.fromkeys(COLUMNS, "")
                | {"device": "Board", "soc_core": text, "runtime": "ncnn-cpu", "threads": "2"}
                | {"precision": "fp32 model", "model": model, "notes": notes}
                | {"latency_ms": latency, "latency_min_ms": least}
            )
    monkeypatch.setenv("EDGEC_BENCH_DATA", str(tmp_path))
    table = rows.ncnn_table("fp32")
    assert [(b.core, b.clock_mhz, b.chip) for b in table.boards] == [
        ("Cortex-A72", 1800.0, "RK3399"),
        ("Cortex-A53", 1500.0, "RK3399"),
    ]
    assert table.networks == ["net", "other_net"]
    assert table.ms[0].tolist() == [10.0, 20.0]
    assert np.isnan(table.ms[1, 1])
    assert table.layers["net"][0].kind == "3x3"
    assert len(rows.data_hash()) == 64


def test_rows_of_the_hub_are_those_that_ran_on_the_npu_alone(
    scripts, tmp_path: Path, monkeypatch
) -> None:
    layer = {"layer": "convolution", "kind": "conv", "macs": 9000, "weights": 90, "in_elems": 100,
             "out_elems": 100, "kernel": 3, "stride": 1, "out_hw": 100, "in_ch": 8,
             "out_ch": 8}  # fmt: skip
    facts = {"resnet18@224x224x3": [layer], "efficientnet_b4@380x380x3": [layer]}
    (tmp_path / "timm_layers.json").write_text(json.dumps(facts))
    columns = (*COLUMNS, "gpu_layers", "cpu_layers")
    hub = {"runtime": "TFLite (QNN delegate)", "precision": "w8a8", "cpu_layers": "0"}
    hub |= {"gpu_layers": "0", "device": "Samsung Galaxy S24", "soc_core": "chip"}
    entries = [
        hub | {"model": "resnet18", "latency_ms": "0.9"},
        hub | {"model": "efficientnet_b4", "latency_ms": "5.0"},
        hub | {"model": "resnet50", "latency_ms": "1.6"},  # no layer facts here
        hub | {"model": "yolox", "latency_ms": "4.0"},  # no definition known
        hub | {"model": "resnet18", "latency_ms": "7.0", "cpu_layers": "3", "device": "other"},
        hub | {"model": "resnet18", "latency_ms": "7.0", "precision": "float"},
        hub | {"model": "resnet18", "latency_ms": "7.0", "runtime": "QNN DLC"},
    ]
    with (tmp_path / "published_latencies.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, columns)
        writer.writeheader()
        writer.writerows(dict.fromkeys(columns, "") | entry for entry in entries)
    monkeypatch.setenv("EDGEC_BENCH_DATA", str(tmp_path))
    monkeypatch.delenv("EDGEC_TIMM_LAYERS", raising=False)
    table = scripts["rows"].hub_table("int8")
    assert [board.core for board in table.boards] == ["Hexagon HTP v75"]
    assert table.networks == ["efficientnet_b4", "resnet18"]
    assert table.ms.tolist() == [[5.0, 0.9]]
    assert table.family == {"efficientnet_b4": "efficientnet", "resnet18": "resnet"}
    hub_module = scripts["hub"]
    assert set(hub_module.SIZES) | set(hub_module.FAMILIES) <= set(hub_module.NETWORKS)


def test_functions_of_a_compiled_network_join_in_one_pass(scripts) -> None:
    def row(name: str, entering: int, leaving: int) -> dict:
        facts = dict.fromkeys(("macs", "weights", "kernel", "stride", "in_ch", "out_ch"), 0)
        return facts | {"layer": name, "kind": name, "in_elems": entering, "out_elems": leaving,
                        "out_hw": 0}  # fmt: skip

    found = scripts["rows"].torch_to_layers(
        [
            row("convolution", 500, 100) | {"kind": "conv", "kernel": 3, "stride": 1},
            row("native_batch_norm", 108, 100),
            row("add", 200, 100),  # a shortcut enters
            row("silu_", 100, 100),
            row("max_pool2d_with_indices", 100, 25),
            row("relu", 25, 25),
        ]
    )
    assert [layer.joined for layer in found] == [108 + 100 + 100, 25 + 25]
    assert [layer.functions for layer in found] == [100, 0]


def test_the_noise_of_one_chip_measured_twice(scripts) -> None:
    rows, guess = scripts["rows"], scripts["guess"]
    rng = np.random.default_rng(0)
    truth = rng.lognormal(2, 1, 4000)
    noise = np.exp(rng.normal(0, 0.1, (2, 4000)))
    noise[1] *= 3  # a slower board of the same chip is no noise
    boards = [rows.Board(f"b{i}", chip, "core", 1.0, 1) for i, chip in enumerate("aab")]
    times = np.vstack([truth * noise, 7 * truth])
    found = guess.noise_floor(rows.Table(boards, [], {}, times))
    assert found is not None
    assert found["n"] == 4000
    assert found["within_10"] == pytest.approx(68, abs=3), "one standard deviation of one run"
    assert found["within_20"] == pytest.approx(95, abs=2)
    alone = rows.Table(boards[1:], [], {}, times[1:])
    assert guess.noise_floor(alone) is None


def test_sets_are_chosen_by_name(scripts) -> None:
    read = scripts["tasks"].command_line("").parse_args
    named = scripts["tasks"].named
    assert named(read([]).only) == set()
    only = named(read(["--only", "cube-int8,hexagon-int8"]).only)
    assert only == {"cube-int8", "hexagon-int8"}
    with pytest.raises(SystemExit, match="no set cube"):
        named("cube")


@pytest.fixture
def constants(scripts, tmp_path, monkeypatch) -> Path:
    """A file of constants that ``fit.py`` would write, and nothing to fit."""
    target = tmp_path / "constants.json"
    target.write_text('{"fits": []}', "utf-8")
    monkeypatch.setattr(scripts["fit"], "TARGET", target)
    monkeypatch.setattr(scripts["fit"], "TASKS", ())
    return target


def test_an_option_misspelt_does_not_write_the_constants(scripts, constants, monkeypatch) -> None:
    monkeypatch.setattr(sys, "argv", ["fit.py", "--dryrun"])
    with pytest.raises(SystemExit):
        scripts["fit"].main()
    assert constants.read_text("utf-8") == '{"fits": []}'


def test_a_dry_run_prints_what_it_would_write(scripts, constants, monkeypatch, capsys) -> None:
    monkeypatch.setattr(sys, "argv", ["fit.py", "--dry-run"])
    scripts["fit"].main()
    assert json.loads(capsys.readouterr().out)["fits"] == []
    assert constants.read_text("utf-8") == '{"fits": []}'


def test_networks_have_the_published_macs(scripts) -> None:
    networks = scripts["networks"]

    def macs(rows) -> int:
        return sum(row["macs"] for row in rows)

    # MLPerf Tiny's own count; MobileNetV2 (arXiv:1801.04381, table 4: 300 M)
    assert macs(networks.named("MobileNetV1-0.25 VWW", "", 0)) == 7_489_664
    assert macs(networks.named("ResNet8 CIFAR-10", "", 0)) == 12_501_632
    assert macs(networks.autoencoder()) == 264_192
    assert macs(networks.mobilenet_v2(224, 1.0, 1000)) == pytest.approx(300e6, rel=0.01)
    assert networks.named("unheard_of", "224x224x3", 10) is None


@pytest.mark.parametrize(
    ("text", "cores"),
    [
        ("Broadcom BCM2711B0, Cortex-A72 (ARMv8) (1.8GHz x 4)", [("Cortex-A72", 1800)]),
        ("AllWinner H2+, Cortex-A7 (ARMv7-A) (1.2GHz x 4)", [("Cortex-A7", 1200)]),
        ("Rockchip RK3588S (Quad Core A76 2.4GHz + Quad Core A55 1.8GHz)",
         [("Cortex-A76", 2400), ("Cortex-A55", 1800)]),
        ("Jetson TX2 NX(NV-Denver2 2.0Ghz x 2 +  Cortex-A57 2.0Ghz x 4)",
         [("Denver2", 2000), ("Cortex-A57", 2000)]),
        ("iPhone 5S (Apple A7 1.3GHz x 2)", [("Apple A7", 1300)]),
        ("RDK X3 Module (Cortex-A53 1.5GHz x 4) aarch64", [("Cortex-A53", 1500)]),
        ("Freescale i.MX7 Dual (Cortex A7 1.0GHz x 2)", [("Cortex-A7", 1000)]),
        ("Loongson 3A4000 (GS464V 1.8GHz * 4 with MSA128)", [("GS464V", 1800)]),
        ("Amlogic S805 (Cortex-A5, 4 × 1.536GHz)", [("Cortex-A5", 1536)]),
        ("AMD Ryzen 5700g (Zen3 3.8 GHz ~ 4.6 GHz x 8)", [("Zen3", 3800)]),
        ("Xeon Phi 3120A (1.10 GHz 57-core 228-thread)", []),
    ],
)  # fmt: skip
def test_cores_and_clocks_in_descriptions(scripts, text: str, cores) -> None:
    assert scripts["rows"].cores_of(text) == cores


def test_scores_of_a_known_guess(scripts) -> None:
    module = scripts["guess"]
    truth = np.log(np.array([[1.0, 2.0, 4.0, 8.0]] * 10))
    guess = module.Guess.empty(truth)
    off = np.log([1.0, 1.05, 1.15, 1.5])
    for b in range(10):
        guess.put(b, truth[b] + off, np.full(4, 0.1), b)
    scores = guess.score()
    assert (scores["within_10"], scores["within_20"]) == (50.0, 75.0)
    assert scores["kendall_tau"] == 1.0
    assert scores["coverage_80"] in (75.0, 100.0)
    # off by the same on every board: nothing is left once that is known
    given = guess.without_bias([[0], [1], [2], [3]]).score()
    assert (given["within_10"], given["median_error"]) == (100.0, 0.0)
    assert guess.without_bias([[0, 1, 2, 3]]).score()["within_10"] == 75.0
    assert guess.of_boards([1, 2]).score()["n"] == 8
    assert module.kendall(np.array([1.0, 2, 3]), np.array([3.0, 2, 1])) == -1.0


def test_chips_stay_in_one_fold(scripts) -> None:
    rows, validate = scripts["rows"], scripts["validate"]
    boards = [rows.Board(f"b{i}", f"chip{i // 2}", None, None, 1) for i in range(20)]
    table = rows.Table(boards, ["n"], {}, np.ones((20, 1)))
    folds = validate.chip_folds(table)
    assert sorted(i for fold in folds for i in fold) == list(range(20))
    for fold in folds:
        others = {boards[i].chip for f in folds if f is not fold for i in f}
        assert not others & {boards[i].chip for i in fold}


def test_names_of_the_stm32_model_zoo(scripts) -> None:
    alike = scripts["st_zoo"].alike
    same = ("mobilenet_v2_0.35", "mobilenet_v2_0.35_fft", "mobilenetv2_w035_pt")
    assert {alike(name) for name in same} == {"mobilenetv2 0.35"}
    assert alike("mobilenetb_a025_pt") == alike("mobilenet_v1_0.25_tfs") == "mobilenet 0.25"
    assert alike("fdmobilenet_a050_pt") == "fdmobilenet 0.5"
    assert alike("darknettiny_pt") == "darknettiny"
    assert alike("efficientnet_v2B1_fft") == "efficientnet_v2 1"


def test_rows_of_a_table_of_ones_own(scripts, tmp_path: Path, monkeypatch) -> None:
    rows = scripts["rows"]
    own = tmp_path / "own.csv"
    for path, model in ((tmp_path / "published_latencies.csv", "a"), (own, "b")):
        path.write_text(f"device,model\nboard,{model}\n", "utf-8")
    (tmp_path / "ncnn_layers.json").write_text("{}", "utf-8")
    monkeypatch.setenv("EDGEC_BENCH_DATA", str(tmp_path))
    monkeypatch.delenv("EDGEC_LATENCY_ROWS", raising=False)
    before = rows.data_hash()
    monkeypatch.setenv("EDGEC_LATENCY_ROWS", str(own))
    assert [row["model"] for row in rows.read_rows()] == ["a", "b"]
    assert rows.data_hash() != before


def test_rows_of_timm_by_processor(scripts, tmp_path: Path, monkeypatch, capsys) -> None:
    layer = {"layer": "convolution", "kind": "conv", "macs": 9000, "weights": 90, "in_elems": 100,
             "out_elems": 100, "kernel": 3, "stride": 1, "out_hw": 100, "in_ch": 8,
             "out_ch": 8}  # fmt: skip
    facts = {f"resnet{n}@224x224x3": [layer] for n in range(120)}
    (tmp_path / "timm_layers.json").write_text(json.dumps(facts))
    head = "model,infer_img_size,infer_step_time,infer_batch_size,param_count,infer_gmacs"
    lines = [f"resnet{n},224,{1 + n / 100},1,11.7,1.8" for n in range(120)]
    (tmp_path / "r.csv").write_text("\n".join([head, *lines, "resnet5,224,9,64,11.7,1.8"]) + "\n")
    tables = []
    for device in ("Intel i9-10940X", "Intel i7-12700H"):
        monkeypatch.setattr(sys, "argv", ["timm_rows.py", str(tmp_path / "r.csv"), device, "torch"])
        scripts["timm_rows"].main()
        tables.append(capsys.readouterr().out)
    (tmp_path / "published_latencies.csv").write_text(tables[0], newline="")
    (tmp_path / "own.csv").write_text(tables[1], newline="")
    monkeypatch.setenv("EDGEC_BENCH_DATA", str(tmp_path))
    monkeypatch.setenv("EDGEC_LATENCY_ROWS", str(tmp_path / "own.csv"))
    monkeypatch.delenv("EDGEC_TIMM_LAYERS", raising=False)
    both = scripts["rows"].x86_table()
    assert [board.device for board in both.boards] == ["Intel i9-10940X", "Intel i7-12700H"]
    by_id = {task.id: task for task in scripts["tasks"].TASKS}
    for number, name in enumerate(("torch-x86-fp32", "torch-x86-i7-fp32")):
        table = by_id[name].table()
        assert [board.device for board in table.boards] == [both.boards[number].device]
        assert table.ms[0, table.networks.index("resnet7@224x224x3")] == pytest.approx(1.07)
    assert not by_id["torch-x86-i7-fp32"].ships
