//! The report of a real run, looked at as a person would: in a browser, light and dark, wide and narrow.
//!
//! The last screenshots are kept in `target/tmp/report-light.png` and `report-dark.png`.
#![forbid(unsafe_code)]

use billfish_testing::{Browser, Screen, Standalone};
use serde_json::Value;
use std::{
    collections::HashMap,
    fs,
    path::{Path, PathBuf},
    process::Command,
};

const PLOTS: [&str; 8] = ["throughput", "latency", "heat", "percentiles", "cpu", "memory", "logins", "connections"];
const LIGHT: Screen = Screen { width: 1280, height: 900, is_dark: false };
const DARK: Screen = Screen { is_dark: true, ..LIGHT };
const NARROW: Screen = Screen { width: 390, ..LIGHT };

#[test]
fn the_report_of_a_run_reads_at_a_glance_in_a_browser() {
    let Some(mut browser) = Browser::start() else { return };
    let directory = tempfile::tempdir().expect("a temporary directory");
    let json = burst(directory.path());
    let url = format!("file://{}", directory.path().join("report.html").display());

    let mut backgrounds = Vec::new();
    for (name, screen) in [("light", LIGHT), ("dark", DARK)] {
        browser.open(&url, screen);
        let picture = Picture::decode(&browser.screenshot());
        picture.keep(&format!("report-{name}.png"));
        for plot in PLOTS {
            let area = rectangle(&mut browser, plot);
            assert!(area[2] > 300.0 && area[3] > 100.0, "{plot} has the box {area:?}");
            picture.assert_drawn(&format!("{plot}, {name}"), area);
        }
        assert_no_label_is_cut(&mut browser);
        backgrounds.push(picture.brightness_at(4, 4));
        assert_eq!(browser.fetched(), [url.as_str()], "one file and nothing else");
        assert_eq!(browser.complaints(), [] as [&str; 0]);
    }
    assert!(backgrounds[0] > 200 && backgrounds[1] < 60, "light and dark: {backgrounds:?}");

    browser.open(&url, NARROW);
    let width = browser.evaluate("document.documentElement.scrollWidth").as_f64().expect("a width");
    assert!(width <= f64::from(NARROW.width), "a telephone scrolls sideways: {width}");

    assert_figures_are_those_of(&mut browser, &json);
    let text = browser.evaluate("document.querySelector('#verdict').innerText").to_string();
    assert!(text.contains("Passed") && text.contains("8,000 copies"), "{text}");
    let ceiling = browser.evaluate("document.querySelector('#ceiling').innerText").to_string();
    assert!(ceiling.contains("100 sockets") && ceiling.contains('%') && ceiling.contains(" to "), "{ceiling}");
    let share = json["detail"]["ratio_to_limit"].as_f64().expect("it was measured");
    assert!(ceiling.contains(&format!("reached {} %", (share * 1_000.0).round() / 10.0)), "{share}: {ceiling}");
    let origin = browser.evaluate("document.querySelector('#origin').innerText").to_string();
    assert!(origin.contains("loadgen room-burst --connections 100") && origin.contains("Linux "), "{origin}");
}

/// What `series.json` says adds up to what `report.json` says.
#[test]
fn the_series_of_two_processes_add_up_to_the_report() {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let json = burst(directory.path());
    let series: Value = serde_json::from_slice(&fs::read(directory.path().join("series.json")).expect("there")).expect("JSON");
    let points = series["points"].as_array().expect("points");
    let sum =
        |field: &str| points.iter().filter_map(|point| point[field].as_f64()).sum::<f64>() * series["slot_s"].as_f64().expect("seconds");
    let whole = |field: &str| json[field].as_f64().expect("a number");
    for (field, wanted) in [("received_per_s", whole("received")), ("sent_per_s", whole("sent")), ("logins_per_s", whole("connections"))] {
        assert!((sum(field) - wanted).abs() < 0.01, "{field} is {} and not {wanted}", sum(field));
    }
    // The series begins before the load and its CPU is counted in hundredths of a second.
    assert!(sum("server_cpu_cores") > 0.5 * whole("server_cpu_s"), "{} {}", sum("server_cpu_cores"), whole("server_cpu_s"));
    assert!(sum("loadgen_cpu_cores") > 0.0, "the load generator's own processes");
    let largest = |pick: &dyn Fn(&Value) -> Option<f64>| points.iter().filter_map(pick).fold(0.0, f64::max);
    let max = largest(&|point| point["latency_ms"]["max"].as_f64());
    let wanted = json["latency_ms"]["max"].as_f64().expect("a latency");
    assert!((max / wanted - 1.0).abs() < 0.02, "the worst second is the worst of the run: {max} {wanted}");
    assert_eq!(largest(&|point| point["connections"].as_f64()), 100.0);
    assert!(largest(&|point| point["server_rss_bytes"].as_f64()) > 1e6);
    let steps: Vec<_> = series["steps"].as_array().expect("steps").iter().map(|step| step["step"].clone()).collect();
    assert_eq!(steps, ["load", "drain"]);
    let check = Command::new(env!("CARGO_BIN_EXE_loadgen")).arg("check").arg(directory.path().join("journal.jsonl")).output();
    let check = check.expect("it runs");
    assert!(check.status.success(), "the journal beside them comes to the same: {}", String::from_utf8_lossy(&check.stderr));
}

/// A run of four seconds over two processes: what it printed as JSON, which `report.json` is the same as.
fn burst(report: &Path) -> Value {
    let program = Path::new(env!("CARGO_BIN_EXE_loadgen"));
    let server = Standalone::beside(program, Path::new(env!("CARGO")));
    let output = Command::new(program)
        .args(["room-burst", "--connections", "100", "--rate", "20", "--seconds", "4", "--processes", "2", "--limit", "--json"])
        .args(["--server-pid", &server.pid().to_string()])
        .arg("--ports-file")
        .arg(server.ports_file())
        .arg("--data-dir")
        .arg(server.data_dir())
        .arg("--report")
        .arg(report)
        .output()
        .expect("it runs");
    assert!(output.status.success(), "{}\n{}", String::from_utf8_lossy(&output.stderr), server.log());
    let kept = fs::read(report.join("report.json")).expect("the report");
    assert_eq!(String::from_utf8_lossy(&output.stdout).trim_end(), String::from_utf8_lossy(&kept), "both are the same object");
    serde_json::from_slice(&kept).expect("JSON")
}

/// Every figure of the page, against the JSON; and every field of the JSON's contract, against the page.
fn assert_figures_are_those_of(browser: &mut Browser, json: &Value) {
    let figures =
        browser.evaluate("Object.fromEntries([...document.querySelectorAll('[data-field]')].map(e => [e.dataset.field, e.innerText]))");
    let figures = figures.as_object().expect("figures");
    for (field, text) in figures {
        let value = field.split('.').fold(json, |value, key| &value[key]);
        let wanted = if value.is_null() { "-".to_owned() } else { value.to_string() };
        assert_eq!(text.as_str(), Some(wanted.as_str()), "{field}");
    }
    let shown: Vec<&str> = figures.keys().filter_map(|field| field.split('.').next()).collect();
    // Nothing was dropped, so that has no row.
    for field in json.as_object().expect("an object").keys().filter(|field| !["detail", "dropped"].contains(&field.as_str())) {
        assert!(shown.contains(&field.as_str()), "{field} is not on the page");
    }
}

/// Where the drawing of a plot is on the page: left, top, width, height.
fn rectangle(browser: &mut Browser, plot: &str) -> [f64; 4] {
    let expression = format!(
        "(r => [r.left + scrollX, r.top + scrollY, r.width, r.height])(document.querySelector('#{plot} svg').getBoundingClientRect())"
    );
    let value = browser.evaluate(&expression);
    [0, 1, 2, 3].map(|place| value[place].as_f64().unwrap_or_else(|| panic!("{plot}: {value}")))
}

/// Words of a plot stand inside it, and not on each other.
fn assert_no_label_is_cut(browser: &mut Browser) {
    let cut = browser.evaluate(
        "[...document.querySelectorAll('.plot svg')].flatMap(svg => {
            const box = svg.getBoundingClientRect(), words = [...svg.querySelectorAll('text')];
            const at = words.map(word => word.getBoundingClientRect());
            const outside = words.filter((_, i) => at[i].left < box.left - 1 || at[i].right > box.right + 1 || at[i].top < box.top - 1 || at[i].bottom > box.bottom + 1);
            const crossed = words.filter((_, i) => at.some((other, j) => j > i && at[i].left < other.right && other.left < at[i].right && at[i].top + 2 < other.bottom && other.top + 2 < at[i].bottom));
            return [...outside, ...crossed].map(word => svg.parentElement.id + ': ' + word.textContent);
        })",
    );
    assert_eq!(cut, Value::Array(Vec::new()), "cut off or written over");
}

/// A screenshot.
struct Picture {
    file: Vec<u8>,
    width: usize,
    height: usize,
    /// Red, green, blue of each pixel.
    pixels: Vec<[u8; 3]>,
}

impl Picture {
    fn decode(file: &[u8]) -> Self {
        let mut reader = png::Decoder::new(std::io::Cursor::new(file)).read_info().expect("a PNG");
        let mut bytes = vec![0; reader.output_buffer_size().expect("a small picture")];
        let info = reader.next_frame(&mut bytes).expect("a picture");
        let samples = info.color_type.samples();
        assert!(samples >= 3 && info.bit_depth == png::BitDepth::Eight, "{info:?}");
        let pixels = bytes[..info.buffer_size()].chunks_exact(samples).map(|pixel| [pixel[0], pixel[1], pixel[2]]).collect();
        Self { file: file.to_vec(), width: info.width as usize, height: info.height as usize, pixels }
    }

    fn keep(&self, name: &str) {
        let path = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(name);
        fs::write(path, &self.file).expect("the target directory is there");
    }

    /// Inside the box there is more than a background: lines and areas in their colours, and labels.
    fn assert_drawn(&self, name: &str, [left, top, width, height]: [f64; 4]) {
        let mut colours: HashMap<[u8; 3], usize> = HashMap::new();
        for y in pixel(top)..pixel(top + height).min(self.height) {
            for x in pixel(left)..pixel(left + width).min(self.width) {
                *colours.entry(self.pixels[y * self.width + x]).or_default() += 1;
            }
        }
        let all: usize = colours.values().sum();
        let background = colours.values().copied().max().unwrap_or(0);
        assert!(colours.len() > 20, "{name} has {} colours", colours.len());
        let ink = all - background;
        assert!(ink * 50 > all && ink * 20 < all * 19, "{name}: {ink} of {all} pixels are drawn on");
        // Grey is what axes and labels are made of; the data is not grey.
        let coloured: usize = colours.iter().filter(|(colour, _)| is_coloured(**colour)).map(|(_, count)| count).sum();
        assert!(coloured > 300, "{name}: {coloured} pixels have a colour");
    }

    fn brightness_at(&self, x: usize, y: usize) -> u32 {
        self.pixels[y * self.width + x].iter().map(|&part| u32::from(part)).sum::<u32>() / 3
    }
}

fn is_coloured(colour: [u8; 3]) -> bool {
    let (low, high) = (colour.iter().min(), colour.iter().max());
    low.zip(high).is_some_and(|(low, high)| high - low > 80)
}

#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a place on a screen")]
fn pixel(place: f64) -> usize {
    place.max(0.0) as usize
}
