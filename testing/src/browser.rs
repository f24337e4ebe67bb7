//! A headless Chromium that opens pages, looks at them and tells what they did: for tests of what people read.
//!
//! Spoken to over its DevTools pipe (`--remote-debugging-pipe`): JSON with a zero byte behind it, requests on its descriptor 3 and answers on 4.
//! No port is opened and no driver is needed. It dies with this process, as a [`Process`](crate::Process) does.

use crate::{patience::PATIENCE, process, program};
use base64::{Engine as _, engine::general_purpose::STANDARD};
use serde_json::{Value, json};
use std::{
    io::{BufRead, BufReader, Write},
    path::Path,
    process::{Child, ChildStdin, Command, Stdio},
    sync::mpsc::{self, Receiver},
    thread::{self, JoinHandle},
    time::Instant,
};
use tempfile::TempDir;

/// A screen to look at a page on.
#[derive(Clone, Copy, Debug)]
pub struct Screen {
    /// Width in CSS pixels.
    pub width: u32,
    /// Height in CSS pixels; a screenshot has the whole page.
    pub height: u32,
    /// The reader prefers dark.
    pub is_dark: bool,
}

/// A browser with one page open.
#[derive(Debug)]
pub struct Browser {
    child: Child,
    requests: Option<ChildStdin>,
    answers: Receiver<Value>,
    reader: Option<JoinHandle<()>>,
    session: String,
    next_id: u64,
    fetched: Vec<String>,
    complaints: Vec<String>,
    is_loaded: bool,
    /// Last: the browser is gone when its profile is removed.
    _profile: TempDir,
}

impl Browser {
    /// Starts it, or says that there is none (see `REQUIRE_SERVERS`).
    pub fn start() -> Option<Self> {
        let program = program::find("chromium", "chromium")?;
        let profile = tempfile::tempdir().expect("a temporary directory");
        let mut child = launch(&program, profile.path());
        let requests = child.stdin.take();
        let output = BufReader::new(child.stdout.take().expect("standard output was asked for"));
        let (said, answers) = mpsc::channel();
        let reader = thread::spawn(move || {
            for message in output.split(0).map_while(Result::ok) {
                // Who stops listening has what was wanted.
                if let Ok(message) = serde_json::from_slice(&message)
                    && said.send(message).is_err()
                {
                    break;
                }
            }
        });
        let mut browser = Self {
            child,
            requests,
            answers,
            reader: Some(reader),
            session: String::new(),
            next_id: 0,
            fetched: Vec::new(),
            complaints: Vec::new(),
            is_loaded: false,
            _profile: profile,
        };
        let target = browser.call("Target.createTarget", json!({ "url": "about:blank" }));
        let attached = browser.call("Target.attachToTarget", json!({ "targetId": target["targetId"], "flatten": true }));
        browser.session = attached["sessionId"].as_str().unwrap_or_else(|| panic!("no session in {attached}")).to_owned();
        for domain in ["Page", "Runtime", "Log", "Network"] {
            browser.call(&format!("{domain}.enable"), json!({}));
        }
        Some(browser)
    }

    /// Opens a page and waits until it is loaded. What was fetched and complained of is counted anew.
    pub fn open(&mut self, url: &str, screen: Screen) {
        let Screen { width, height, is_dark } = screen;
        self.call(
            "Emulation.setDeviceMetricsOverride",
            json!({ "width": width, "height": height, "deviceScaleFactor": 1, "mobile": false }),
        );
        let scheme = json!({ "name": "prefers-color-scheme", "value": if is_dark { "dark" } else { "light" } });
        self.call("Emulation.setEmulatedMedia", json!({ "features": [scheme] }));
        (self.fetched, self.complaints, self.is_loaded) = (Vec::new(), Vec::new(), false);
        let answer = self.call("Page.navigate", json!({ "url": url }));
        assert!(answer["errorText"].is_null(), "{url}: {answer}");
        let deadline = Instant::now() + PATIENCE;
        while !self.is_loaded {
            let event = self.answers.recv_timeout(deadline.saturating_duration_since(Instant::now())).expect("the page is loaded in time");
            self.on_event(&event);
        }
    }

    /// The value of an expression in the page.
    pub fn evaluate(&mut self, expression: &str) -> Value {
        let answer = self.call("Runtime.evaluate", json!({ "expression": expression, "returnByValue": true, "awaitPromise": true }));
        assert!(answer["exceptionDetails"].is_null(), "{expression}: {answer}");
        answer["result"]["value"].clone()
    }

    /// The whole page as a PNG file, one pixel for each CSS pixel.
    pub fn screenshot(&mut self) -> Vec<u8> {
        let size = self.evaluate("[document.documentElement.scrollWidth, document.documentElement.scrollHeight]");
        let clip = json!({ "x": 0, "y": 0, "width": size[0], "height": size[1], "scale": 1 });
        let answer = self.call("Page.captureScreenshot", json!({ "format": "png", "captureBeyondViewport": true, "clip": clip }));
        STANDARD.decode(answer["data"].as_str().expect("a picture")).expect("base64")
    }

    /// Everything the page has fetched, itself first.
    pub fn fetched(&self) -> &[String] {
        &self.fetched
    }

    /// Every exception, warning and error so far: of its scripts, and of the browser about it.
    pub fn complaints(&self) -> &[String] {
        &self.complaints
    }

    fn call(&mut self, method: &str, parameters: Value) -> Value {
        self.next_id += 1;
        let id = self.next_id;
        let mut request = json!({ "id": id, "method": method, "params": parameters });
        if !self.session.is_empty() {
            request["sessionId"] = json!(self.session);
        }
        let mut bytes = request.to_string().into_bytes();
        bytes.push(0);
        self.requests.as_mut().expect("open until the end").write_all(&bytes).expect("the browser listens");
        let deadline = Instant::now() + PATIENCE;
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            let message = self.answers.recv_timeout(left).unwrap_or_else(|_| panic!("the browser does not answer {method}"));
            if message["id"] != json!(id) {
                self.on_event(&message);
                continue;
            }
            assert!(message["error"].is_null(), "{method}: {message}");
            return message["result"].clone();
        }
    }

    fn on_event(&mut self, event: &Value) {
        let about = &event["params"];
        match event["method"].as_str().unwrap_or_default() {
            "Page.loadEventFired" => self.is_loaded = true,
            "Network.requestWillBeSent" => self.fetched.push(about["request"]["url"].as_str().unwrap_or_default().to_owned()),
            "Runtime.exceptionThrown" => self.complaints.push(about["exceptionDetails"].to_string()),
            "Runtime.consoleAPICalled" if ["error", "warning", "assert"].contains(&about["type"].as_str().unwrap_or_default()) => {
                self.complaints.push(about["args"].to_string());
            }
            "Log.entryAdded" => self.complaints.push(about["entry"].to_string()),
            _ => {}
        }
    }
}

impl Drop for Browser {
    fn drop(&mut self) {
        self.requests = None;
        // It may have ended by itself.
        self.child.kill().ok();
        self.child.wait().ok();
        if let Some(reader) = self.reader.take() {
            reader.join().ok();
        }
    }
}

/// Its pipe is ours: the shell makes descriptors 3 and 4 of our ends.
fn launch(program: &Path, profile: &Path) -> Child {
    let mut command = Command::new("setpriv");
    command
        .args(["--pdeathsig", "KILL", "--", "sh", "-c", r#"exec "$@" 3<&0 4>&1 </dev/null >/dev/null 2>&1"#, "sh"])
        .arg(program)
        .args(["--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--hide-scrollbars"])
        .args(["--disable-background-networking", "--disable-component-update", "--disable-sync", "--remote-debugging-pipe"])
        .arg(format!("--user-data-dir={}", profile.display()))
        .arg("about:blank")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::null());
    process::spawn(command).expect("the browser starts")
}

#[cfg(test)]
mod tests {
    use super::{Browser, Screen};
    use serde_json::json;

    #[test]
    fn what_a_page_shows_fetches_and_complains_of_is_seen() {
        let Some(mut browser) = Browser::start() else { return };
        let directory = tempfile::tempdir().unwrap();
        let page = directory.path().join("page.html");
        std::fs::write(&page, "<body style='height: 3000px'><img src='missing.png'><script>console.error('oh'); undefined.no</script>")
            .unwrap();
        browser.open(&format!("file://{}", page.display()), Screen { width: 300, height: 200, is_dark: true });
        assert_eq!(browser.evaluate("[innerWidth, matchMedia('(prefers-color-scheme: dark)').matches]"), json!([300, true]));
        assert!(browser.fetched().iter().any(|url| url.ends_with("missing.png")), "{:?}", browser.fetched());
        let complaints = browser.complaints().join("\n");
        assert!(complaints.contains("oh") && complaints.contains("undefined"), "{complaints}");
        let picture = browser.screenshot();
        assert!(picture.starts_with(b"\x89PNG"), "{:?}", &picture[..8.min(picture.len())]);
        let height = u32::from_be_bytes(picture[20..24].try_into().unwrap());
        assert!(height >= 3_000, "the whole page and not its first screen: {height}");

        std::fs::write(&page, "<p>quiet</p>").unwrap();
        browser.open(&format!("file://{}", page.display()), Screen { width: 300, height: 200, is_dark: false });
        assert_eq!((browser.fetched().len(), browser.complaints().len()), (1, 0), "{:?} {:?}", browser.fetched(), browser.complaints());
        assert_eq!(browser.evaluate("document.body.innerText"), json!("quiet"));
    }
}
