//! A Lambda Runtime API on loopback, just big enough to start a function's
//! binary and give it one event, for `scripts/measure` and `scripts/scale`.

use std::net::TcpListener;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant, SystemTime};

use crate::local_aws::http::Message;

/// The Region that a started function believes to be in.
pub const REGION: &str = "eu-central-1";
/// The account that it believes to be in.
pub const ACCOUNT: &str = "111122223333";

/// A started function, ended when dropped.
#[derive(Debug)]
pub struct Function {
    child: Child,
    api: TcpListener,
    /// When it was started.
    pub begun: Instant,
}

/// What came of an invocation.
#[derive(Debug)]
pub struct Answered {
    /// Whether the function succeeded.
    pub success: bool,
    /// What it answered, or its error.
    pub body: String,
    /// From the event to the answer.
    pub took: Duration,
}

impl Function {
    /// Starts a binary with the environment that Lambda gives it and the
    /// settings of its own.
    #[must_use]
    pub fn start(binary: &Path, settings: &[(&str, &str)]) -> Self {
        let api = TcpListener::bind("127.0.0.1:0").unwrap();
        let mut command = Command::new(binary);
        command
            .env_clear()
            .env(
                "AWS_LAMBDA_RUNTIME_API",
                api.local_addr().unwrap().to_string(),
            )
            .stdout(Stdio::null())
            .stderr(Stdio::null());
        for (name, value) in [
            ("AWS_LAMBDA_FUNCTION_NAME", "measured"),
            ("AWS_LAMBDA_FUNCTION_MEMORY_SIZE", "256"),
            ("AWS_LAMBDA_FUNCTION_VERSION", "$LATEST"),
            ("AWS_LAMBDA_LOG_GROUP_NAME", "group"),
            ("AWS_LAMBDA_LOG_STREAM_NAME", "stream"),
            ("AWS_LAMBDA_LOG_FORMAT", "JSON"),
            ("AWS_REGION", REGION),
            ("AWS_ACCESS_KEY_ID", "AKIDEXAMPLE"),
            ("AWS_SECRET_ACCESS_KEY", "secret"),
            ("AWS_SESSION_TOKEN", "token"),
        ] {
            command.env(name, value);
        }
        command.envs(settings.iter().copied());
        let begun = Instant::now();
        let child = command
            .spawn()
            .unwrap_or_else(|e| panic!("{}: {e}", binary.display()));
        Self { child, api, begun }
    }

    /// Waits until it asks for its first event, and leaves it waiting.
    pub fn initialised(&self) -> Duration {
        let (connection, _) = self.api.accept().unwrap();
        let request = Message::read(&connection).unwrap().unwrap();
        let init = self.begun.elapsed();
        assert!(
            request.start.contains("/invocation/next"),
            "{}",
            request.start
        );
        init
    }

    /// Gives it one event, and `left` to handle it in.
    pub fn invoke(&self, payload: &str, left: Duration) -> Answered {
        let mut given: Option<Instant> = None;
        loop {
            let (connection, _) = self.api.accept().unwrap();
            let Some(request) = Message::read(&connection).unwrap() else {
                continue;
            };
            if request.start.contains("/invocation/next") {
                let deadline = SystemTime::now() + left;
                let deadline = deadline.duration_since(SystemTime::UNIX_EPOCH).unwrap();
                let arn = format!("arn:aws:lambda:{REGION}:{ACCOUNT}:function:measured");
                let event = Message::answer(
                    200,
                    &[
                        ("lambda-runtime-aws-request-id", "request-1"),
                        (
                            "lambda-runtime-deadline-ms",
                            &deadline.as_millis().to_string(),
                        ),
                        ("lambda-runtime-invoked-function-arn", &arn),
                        ("content-type", "application/json"),
                    ],
                    payload,
                );
                given = Some(Instant::now());
                event.write(&connection).unwrap();
                continue;
            }
            let took = given.expect("an event was given").elapsed();
            let answered = Answered {
                success: request.start.contains("/response "),
                body: request.text(),
                took,
            };
            // It is not answered: the function waits, so that its memory can
            // still be read.
            std::mem::forget(connection);
            return answered;
        }
    }

    /// The most resident memory it has had, in kilobytes.
    #[must_use]
    pub fn peak(&self) -> u64 {
        let status = format!("/proc/{}/status", self.child.id());
        let status = std::fs::read_to_string(status).unwrap();
        let peak = status
            .lines()
            .find_map(|line| line.strip_prefix("VmHWM:"))
            .unwrap();
        peak.trim().trim_end_matches(" kB").parse().unwrap()
    }
}

impl Drop for Function {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
