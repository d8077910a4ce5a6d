"""The page in a browser: sliders moved by keys, numbers compared with Python's, no request."""

from __future__ import annotations

import json
import re

import pytest
import torch

import throughtime as tt
from throughtime.errors import FileError, InputValueError
from throughtime.explore import Settings, flow_data, page_html, read_flow, write_flow, write_page

from .chrome import chrome
from .node import run
from .truth import flow, product_norm

WORDS = ("who", "did", "Jane", "<b>greet</b>", "?")


@pytest.fixture(scope="module")
def own_flow():
    """Give the flow of a small GRU that reads five words."""
    torch.manual_seed(0)
    rnn = tt.GRU(3, 4).double()
    with tt.trace(rnn) as trace:
        losses = rnn(torch.randn(5, 2, 3, dtype=torch.float64))[0].pow(2).mean((1, 2))
    return trace.flow(losses)


@pytest.fixture(scope="module")
def page(tmp_path_factory, own_flow):
    """Give the page's folder, open in a browser."""
    folder = tmp_path_factory.mktemp("page")
    write_flow(own_flow, folder / "flow.json", words=WORDS)
    path = write_page(folder / "page.html")
    with chrome() as browser:
        browser.open(path.as_uri())
        browser.wait("document.documentElement?.dataset.shown >= 1")
        yield browser, folder


def put(browser, **values) -> None:
    """Move the controls as their events do, and wait until the page shows what came of it."""
    for name, value in values.items():
        browser.js(
            f"(() => {{ const one = document.getElementById('{name}'); one.value = {value!r};"
            "one.dispatchEvent(new Event('input')); one.dispatchEvent(new Event('change')); })()"
        )
    settle(browser)


def settle(browser) -> None:
    browser.wait("(({complete, asked}) => complete === asked)(document.documentElement.dataset)")


def arrives(browser, which: str) -> float:
    return float(browser.js(f"document.getElementById('{which}-arrives').dataset.value"))


def truth(settings: Settings) -> float:
    return float(flow(settings).norms[-1, 7, 0])


def written(x: float, digits: int) -> str:
    """Give a number as the page writes it."""
    if 0.001 <= x < 1000:
        return f"{x:.{digits}g}"
    mantissa, power = f"{x:.{digits - 1}e}".split("e")
    return f"{mantissa}·10" + str(int(power)).translate(str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹"))


@pytest.mark.browser
def test_a_slider_moved_by_keys_shows_pythons_numbers(page):
    browser, _ = page
    assert arrives(browser, "far") == pytest.approx(truth(Settings()), rel=1e-6, abs=0)
    assert arrives(browser, "near") == pytest.approx(truth(Settings(stop=0)), rel=1e-6, abs=0)
    browser.js("document.getElementById('stop').focus()")
    browser.press("ArrowRight", 2)
    settle(browser)
    assert browser.js("document.getElementById('stop-value').textContent") == "28"
    assert arrives(browser, "far") == pytest.approx(truth(Settings(stop=7)), rel=1e-6, abs=0)
    browser.js("document.querySelector('[name=cell][value=LSTM]').click()")
    put(browser, gain=1.5, bias=3, stop=4)
    want = Settings("LSTM", 1.5, 3.0, "tanh", 4)
    assert arrives(browser, "far") == pytest.approx(truth(want), rel=1e-6, abs=0)
    said = browser.js("document.getElementById('eq16-live').textContent")
    assert said.startswith(f"{written(product_norm(flow(want), 7), 2)} ≤"), said
    assert browser.js("document.getElementById('nonlinearity').disabled")
    assert browser.js("document.getElementById('nonlinearity').value") == ""  # none is an LSTM's
    # The formulas are the cell's own: no f′(a) W_h, and no constants β, of which none are measured.
    assert "∂cj" in browser.js("document.querySelector('#eq13 math').textContent")
    assert "β" not in browser.js("document.querySelector('#eq16 math').textContent")
    browser.js("document.querySelector('[name=cell][value=Elman]').click()")
    settle(browser)
    assert "β" in browser.js("document.querySelector('#eq16 math').textContent")


@pytest.mark.browser
def test_the_sentence_follows_what_was_found(page):
    browser, _ = page
    for preset, verdict in (("gate", "holds"), ("explode", "explodes"), ("flat", "vanishes")):
        browser.js(f"document.querySelector('[data-preset={preset}]').click()")
        settle(browser)
        assert browser.js("document.getElementById('summary').dataset.verdict") == verdict
        pressed = f"document.querySelector('[data-preset={preset}]').getAttribute('aria-pressed')"
        assert browser.js(pressed) == "true"
    half = browser.js("document.getElementById('format-half').textContent")
    assert "exactly 0 from" in half


@pytest.mark.browser
def test_a_chart_of_sixty_powers_of_ten_has_an_axis(page):
    browser, _ = page
    browser.js("document.querySelector('[data-preset=explode]').click()")
    put(browser, gain=4, stop=11)
    for chart in ("left", "bound", "formats"):
        axis = f"document.getElementById('{chart}-chart').drawn.chart.axes[1]._values"
        assert "10²⁰" in browser.js(axis)


@pytest.mark.browser
def test_the_map_is_read_by_keys(page):
    browser, _ = page
    browser.js("document.querySelector('[data-preset=start]').click()")
    settle(browser)
    # At first, without a key: what arrives at John from the blank.
    said = browser.js("document.getElementById('map-cell').textContent")
    assert "From the blank (t = 34) back to “John” (k = 7), 27 steps" in said
    browser.js("document.getElementById('map').focus()")
    browser.press("ArrowUp", 4)
    browser.press("ArrowDown")
    said = browser.js("document.getElementById('map-cell').textContent")
    assert "“Jane” (t = 31) back to “John” (k = 7), 24 steps" in said
    value = float(flow(Settings()).norms[30, 7, 0])
    assert f"{written(value, 3)} arrives" in said
    browser.js("document.getElementById('table-details').open = true")
    browser.wait("document.querySelectorAll('#table-body tr').length === 35")
    browser.js("document.getElementById('map-details').open = true")
    browser.wait("document.querySelectorAll('#map-table tr').length === 35")
    cells = browser.js("document.querySelector('#map-table').rows[31].innerText").split("\t")
    assert cells[0] == "31 Jane" and cells[1 + 7] == written(value, 2) and len(cells) == 36
    row = browser.js("document.querySelector('#table-body tr.john').textContent")
    assert row.startswith("27John") and written(truth(Settings()), 3) in row


@pytest.mark.browser
def test_chinese_by_a_switch_and_back(page):
    browser, _ = page
    browser.js("document.querySelector('[data-language=zh]').click()")
    assert browser.js("document.documentElement.lang") == "zh-Hans"
    assert "离得远" in browser.js("document.querySelector('h1').textContent + document.title")
    bare = "document.body.innerText.match(/.{0,30}(undefined|null|function).{0,30}/)"
    assert browser.js(bare) is None
    assert "远：" in browser.js("document.getElementById('summary').textContent")
    browser.js("document.querySelector('[data-language=en]').click()")
    assert "far name" in browser.js("document.querySelector('h1').textContent")


@pytest.mark.browser
def test_a_flow_of_ones_own_is_opened_by_the_file_picker(page, own_flow):
    browser, folder = page
    root = browser.send("DOM.getDocument")["root"]["nodeId"]
    node = browser.send("DOM.querySelector", nodeId=root, selector="#flow-file")["nodeId"]

    def pick(path) -> None:
        browser.send("DOM.setFileInputFiles", files=[str(path)], nodeId=node)

    pick(folder / "flow.json")
    browser.wait("!document.getElementById('flow-open').hidden")
    browser.js("document.getElementById('flow-map').focus()")
    browser.press("ArrowRight", 4)
    said = browser.js("document.getElementById('flow-cell').innerText")
    layer = own_flow["l0"]
    first = torch.linalg.svdvals(layer.jacobian(4)[0])[0]
    term = layer.weight_grad("weight_hh", 4, 4).norm()
    assert "back to “<b>greet</b>” (step 4)" in said and written(float(first), 3) in said
    assert f"weight_hh {written(float(term), 3)}" in said
    assert f"{written(float(layer.norms[4, 4, 0]), 3)} arrives" in said
    assert "all rows of the batch together" in said
    kind = browser.js("document.getElementById('flow-kind').textContent")
    assert kind.endswith("row 0 of the batch’s 2, counted from 0"), kind
    browser.press("ArrowRight", 2)
    browser.press("ArrowUp", 3)
    said = browser.js("document.getElementById('flow-cell').innerText")
    assert said.startswith("Loss 1 enters at “did” (step 2): it cannot reach “?” (step 5)")
    (folder / "wrong.json").write_text('{"format": "throughtime.flow", "version": 7}')
    pick(folder / "wrong.json")
    browser.wait("document.getElementById('flow-said').textContent !== ''")
    assert "another version" in browser.js("document.getElementById('flow-said').textContent")
    cut = json.loads((folder / "flow.json").read_text())
    cut["flow"]["layers"]["l0"]["norms"][1].pop()
    (folder / "cut.json").write_text(json.dumps(cut))
    pick(folder / "cut.json")
    browser.wait("document.getElementById('flow-said').textContent.includes('incomplete')")
    assert browser.js("document.getElementById('flow-open').hidden")


@pytest.mark.parametrize(
    ("part", "name", "value"),
    [("layers", "words", ["short"]), ("flow", "enters", [1, 2, 3, 4, 99]),
     ("flow", "enters", [1, 2, 3, 4, "5"]), ("flow", "norms", [["much"] * 6] * 5)],
)  # fmt: skip
def test_a_flow_whose_parts_do_not_fit_is_not_shown(own_flow, part, name, value):
    from throughtime.explore.page import HERE

    read = (HERE / "screen" / "flow.js").read_text(encoding="utf-8")
    body = read + "try { return readFlow(data).length; } catch (error) { return error.message; }"
    data = flow_data(own_flow, words=WORDS)
    assert run(body, data=data) == 1
    layers = (data["flow"] if part == "flow" else data)["layers"]
    layers["l0"][name] = value
    assert run(body, data=data) == "broken"


@pytest.mark.browser
@pytest.mark.parametrize(("width", "dark"), [(1440, False), (390, True)])
def test_it_fits_a_screen_without_an_error_or_a_request(page, own_flow, width, dark):
    browser, folder = page
    long = {"encoder.sentence_level.bidirectional_recurrence.l1_reverse": own_flow["l0"]}
    write_page(folder / "own.html", flow=flow_data(long, words=["Donaudampfschifffahrt"] * 5))
    browser.open("about:blank")
    browser.open((folder / "own.html").as_uri(), width, 900, dark)
    browser.wait("document.documentElement?.dataset.shown >= 1")
    assert browser.js("document.documentElement.scrollWidth") <= width
    assert browser.js("document.querySelectorAll('.chart canvas').length") == 3
    unnamed = browser.js(
        "Array.from(document.querySelectorAll('input,select,button')).filter((one) => "
        "!one.labels?.length && !one.textContent.trim()).length"
    )
    assert unnamed == 0 and browser.requests == [] and browser.console == []


@pytest.mark.browser
def test_the_browser_test_sees_an_error_and_a_request(page, tmp_path):
    browser, _ = page
    broken = page_html().replace("startExplorer(JSON", "nope(); startExplorer(JSON")
    asking = broken.replace("<body>", '<body><img src="http://127.0.0.1:9/x.png" alt="">')
    (tmp_path / "broken.html").write_text(asking, encoding="utf-8")
    browser.open((tmp_path / "broken.html").as_uri())
    assert any("nope" in line for line in browser.console)
    assert browser.requests == ["http://127.0.0.1:9/x.png"]
    browser.console.clear()
    browser.requests.clear()


@pytest.mark.browser
def test_a_drag_is_heard_once_and_draws_what_is_in_sight(page):
    browser, folder = page
    browser.open("about:blank")
    browser.open((folder / "page.html").as_uri(), 1440, 700)
    browser.wait("document.documentElement?.dataset.complete >= 1")
    browser.wait("document.getElementById('spoken').textContent !== ''")
    heard, drawn, chart, pauses = browser.js(
        """(async () => {
        const heard = [], gain = document.getElementById("gain"), root = document.documentElement;
        const chart = document.getElementById("formats-chart").drawn.chart, before = chart.data;
        const live = document.querySelectorAll("[aria-live=polite], [role=alert], [role=status]");
        for (const one of live) {
          new MutationObserver(() => heard.push(one.id)).observe(one, { childList: true });
        }
        // The pause after which a slider is at rest ends when the test says so.
        const later = new Map(), real = setTimeout, realClear = clearTimeout;
        let last = 0;
        window.setTimeout = (then, ms, ...more) =>
          ms < 100 ? real(then, ms, ...more) : (later.set(--last, then), last);
        window.clearTimeout = (id) => later.delete(id) || realClear(id);
        let drawn = 0;
        for (let n = 0; n < 8; n++) {
          gain.value = 0.5 + n / 4;
          gain.dispatchEvent(new Event("input"));
          const late = () => root.dataset.shown !== root.dataset.asked;
          while (late()) await new Promise(requestAnimationFrame);
          drawn += chart.data === before ? 0 : 1;
        }
        [window.setTimeout, window.clearTimeout] = [real, realClear];
        const pauses = later.size;
        for (const then of later.values()) then();
        for (let n = 0; n < 3; n++) await new Promise(requestAnimationFrame);
        return [heard.filter((id) => document.getElementById(id).ariaLive !== "off"), drawn,
                chart.data !== before, pauses];
        })()"""
    )
    assert heard == ["spoken"] and drawn == 0 and chart
    assert pauses == 2  # one to speak and one to draw the rest, however often the slider moved


def test_the_file_is_small_and_names_no_address(tmp_path):
    path = write_page(tmp_path / "page.html")
    html = path.read_text(encoding="utf-8")
    assert path.stat().st_size < 1_000_000
    assert not re.search(r"<(link|script|img)[^>]+(src|href)=\"(?!data:)", html)
    assert html.count("</script>") == html.count("<script")


def test_both_languages_say_the_same_things():
    from throughtime.explore.page import HERE

    text = "".join(
        (HERE / "screen" / f"{name}.js").read_text(encoding="utf-8")
        for name in ("format", "words_en", "words_zh")
    )
    shapes = run(
        text
        + """const shape = (x) => x && typeof x === "object" && !Array.isArray(x)
            ? Object.fromEntries(Object.keys(x).sort().map((k) => [k, shape(x[k])]))
            : Array.isArray(x) && typeof x[0] === "string" ? x.length : typeof x;
        return [shape(ENGLISH), shape(CHINESE)];"""
    )
    assert shapes[0] == shapes[1]


def test_a_users_words_cannot_break_out_of_the_page(own_flow):
    data = flow_data(own_flow, words=["</script><script>nope()", *WORDS[1:]])
    html = page_html(flow=data)
    assert "<script>nope()" not in html and html.count("</script>") == html.count("<script")


def test_a_flow_is_read_back_or_refused_in_a_sentence(own_flow, tmp_path):
    path = write_flow(own_flow, tmp_path / "flow.json", words=WORDS, row=1)
    data = read_flow(path)
    layer = own_flow["l0"]
    assert data["flow"]["layers"]["l0"]["norms"][2][1] == float(layer.norms[2, 1, 1])
    with pytest.raises(InputValueError, match="row must be 0 to 1"):
        flow_data(own_flow, row=2)
    with pytest.raises(InputValueError, match="no layer"):
        flow_data({})
    with pytest.raises(InputValueError, match="got 4 for 5 steps"):
        flow_data(own_flow, words=WORDS[1:])
    (tmp_path / "bare.json").write_text(json.dumps(own_flow.to_dict()))
    with pytest.raises(InputValueError, match="norms=True"):
        read_flow(tmp_path / "bare.json")
    for part in ({"layers": []}, {"layers": {}}, {"layers": {"l0": 3}}, {}):
        for broken in ({**part, "format": "throughtime.flow", "version": 1}, {"flow": 3, **part}):
            (tmp_path / "part.json").write_text(
                json.dumps({"format": "throughtime.explore", "version": 1, **broken})
            )
            with pytest.raises(InputValueError, match="incomplete"):
                read_flow(tmp_path / "part.json")
    (tmp_path / "no.json").write_text("{")
    with pytest.raises(FileError, match="no JSON"):
        read_flow(tmp_path / "no.json")
    with pytest.raises(FileError, match="cannot read"):
        read_flow(tmp_path / "missing.json")
    with pytest.raises(InputValueError, match="language"):
        page_html(language="fr")
    assert page_html(flow=own_flow.to_dict(norms=True))


@pytest.mark.browser
@pytest.mark.parametrize(
    "forbidden", ["window.Worker = undefined", "window.Worker = class { postMessage() { "
                  "setTimeout(() => this.onerror(), 5); } }"], ids=["at once", "late"]
)  # fmt: skip
def test_without_a_worker_it_computes_in_the_page(page, tmp_path, forbidden):
    browser, _ = page
    html = page_html().replace("<body>", f"<body><script>{forbidden}</script>")
    (tmp_path / "page.html").write_text(html, encoding="utf-8")
    browser.open("about:blank")
    browser.open((tmp_path / "page.html").as_uri())
    browser.wait("document.documentElement?.dataset.shown >= 1")
    assert arrives(browser, "far") == pytest.approx(truth(Settings()), rel=1e-6, abs=0)
    assert browser.console == []
