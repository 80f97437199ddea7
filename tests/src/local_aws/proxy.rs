//! A recording, fault-injecting proxy between the deployed functions and the
//! emulators. Every AWS call of a function goes through it, so a test can count
//! the calls and their rounds, fail exactly the third one, or change the world
//! between two of them. What moto lacks is filled in on the way (`gaps`).

use backstop_wire::memory::ec2::{Metadata, Settings};

use super::gaps::{self, Gaps};
use super::http::{Message, parse_form, write_form};
use super::systems_manager::SystemsManager;
use serde_json::{Value, json};
use std::collections::HashSet;
use std::fs;
use std::io::{self, Read};
use std::net::{Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::process::Command;
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Instant;

/// One AWS call that a function made.
#[derive(Clone, Debug)]
pub struct Call {
    /// The name in the request's signature: `ec2`, `dynamodb`, `sns`, ...
    pub service: String,
    /// The operation: `RevokeSecurityGroupIngress`.
    pub action: String,
    /// What was sent: an object of the form's fields, or the JSON body.
    pub request: Value,
    /// The status of the answer; 0 when none was given.
    pub status: u16,
    /// When it came in and when its answer went out.
    pub from: Instant,
    /// See `from`.
    pub to: Instant,
    /// Whether a fault was injected into it.
    pub faulted: bool,
    /// Whose call it was, by the function's name: only where a fault was meant
    /// for such calls of one function. (Finding out takes some milliseconds.)
    pub function: Option<String>,
}

impl Call {
    /// Whether a fault for this operation is meant for it. Dry runs go by a name
    /// of their own: `dry run StartInstances`.
    fn is_named(&self, name: &str) -> bool {
        match self.request["DryRun"].as_str() {
            Some("true") => name.strip_prefix("dry run ") == Some(&self.action),
            _ => name == self.action,
        }
    }
}

/// What happens to a call instead of, or before, its normal course.
pub enum Fault {
    /// The service answers with this error, in its own protocol.
    Error {
        /// The HTTP status, 503 for a throttled call.
        status: u16,
        /// `RequestLimitExceeded`
        code: String,
        /// The text beside the code.
        message: String,
    },
    /// The connection closes before anything has happened.
    Drop,
    /// The call takes effect, but its answer never arrives.
    AnswerLost,
    /// Nothing happens and nothing is answered, until the caller gives up.
    Silence,
    /// The call takes effect, and the process that made it is killed.
    Kill,
    /// Something else happens just before the call goes on: somebody edits the
    /// same group.
    Before(Box<dyn FnMut(&Upstreams) + Send>),
    /// This body, with status 200, is the answer: for what moto lacks, or pages
    /// that it would not make.
    Answer(String),
    /// The true answer, changed on its way back.
    Rewrite(Box<dyn FnMut(String) -> String + Send>),
}

impl Fault {
    /// An error as the service would send it.
    #[must_use]
    pub fn error(status: u16, code: &str, message: &str) -> Self {
        Self::Error {
            status,
            code: code.to_owned(),
            message: message.to_owned(),
        }
    }

    /// EC2's throttling.
    #[must_use]
    pub fn throttled() -> Self {
        Self::error(503, "RequestLimitExceeded", "Request limit exceeded.")
    }

    /// A missing permission.
    #[must_use]
    pub fn denied() -> Self {
        Self::error(
            403,
            "UnauthorizedOperation",
            "You are not authorized to perform this operation.",
        )
    }
}

struct Injection {
    /// Whose call; None: anybody's.
    function: Option<String>,
    action: String,
    skip: usize,
    times: usize,
    fault: Fault,
}

/// Where the emulators listen.
#[derive(Clone, Copy, Debug)]
pub struct Upstreams {
    /// moto: EC2, IAM, and the commands of Systems Manager.
    pub moto: SocketAddr,
    /// MiniStack: everything else.
    pub ministack: SocketAddr,
}

impl Upstreams {
    /// Calls EC2's query API, for use where no client can be awaited.
    /// `Version` and the signature's service are added. Panics on an error.
    pub fn ec2(&self, fields: &[(&str, &str)]) -> String {
        let mut fields = fields.to_vec();
        fields.push(("Version", "2016-11-15"));
        let headers = [
            ("host", "ec2.us-east-1.amazonaws.com"),
            ("content-type", "application/x-www-form-urlencoded"),
            (
                "authorization",
                "AWS4-HMAC-SHA256 Credential=test/20260101/us-east-1/ec2/aws4_request",
            ),
        ];
        let request = Message::request("POST", "/", &headers, write_form(&fields).as_bytes());
        let answer = request.send(self.moto).unwrap();
        assert_eq!(answer.status(), 200, "{}", answer.text());
        answer.text()
    }
}

#[derive(Default)]
struct State {
    calls: Vec<Call>,
    injections: Vec<Injection>,
    under_way: usize,
    answered: usize,
}

/// The proxy. Clones share it.
#[derive(Clone)]
pub struct Proxy {
    state: Arc<Mutex<State>>,
    gaps: Arc<Mutex<Gaps>>,
    /// What tests say of managed instances. It outlives a reset: an instance is
    /// of one scenario.
    pub systems_manager: SystemsManager,
    /// The emulators behind it.
    pub upstreams: Upstreams,
    /// Where functions find EC2 and IAM.
    pub moto_port: u16,
    /// Where they find all else.
    pub ministack_port: u16,
}

impl Proxy {
    /// Listens on two free ports.
    pub fn start(upstreams: Upstreams) -> io::Result<Self> {
        let listen = || TcpListener::bind((Ipv4Addr::LOCALHOST, 0));
        let (moto, ministack) = (listen()?, listen()?);
        let proxy = Self {
            state: Arc::default(),
            gaps: Arc::default(),
            systems_manager: SystemsManager::default(),
            upstreams,
            moto_port: moto.local_addr()?.port(),
            ministack_port: ministack.local_addr()?.port(),
        };
        for (listener, to) in [(moto, upstreams.moto), (ministack, upstreams.ministack)] {
            let proxy = proxy.clone();
            thread::spawn(move || {
                for stream in listener.incoming().flatten() {
                    let proxy = proxy.clone();
                    thread::spawn(move || {
                        if proxy.serve(&stream, to).is_err() {
                            // The caller sees a connection that broke.
                            let _ = stream.shutdown(Shutdown::Both);
                        }
                    });
                }
            });
        }
        Ok(proxy)
    }

    /// Injects `fault` into the next `times` calls of `action`.
    pub fn fail_next(&self, action: &str, times: usize, fault: Fault) {
        self.fail_after(action, 0, times, fault);
    }

    /// Lets `skip` calls of `action` pass, then injects `fault` into `times`.
    pub fn fail_after(&self, action: &str, skip: usize, times: usize, fault: Fault) {
        self.inject(None, action, skip, times, fault);
    }

    /// Lets `skip` calls of `action` by this function pass, then injects
    /// `fault` into one.
    pub fn fail_call_of(&self, function: &str, action: &str, skip: usize, fault: Fault) {
        self.inject(Some(function.to_owned()), action, skip, 1, fault);
    }

    /// Whether CopyVolumes copies volumes, until the next reset; else it is
    /// refused, as where EC2 does not have it.
    pub fn copy_volumes(&self, on: bool) {
        self.gaps.lock().unwrap().copies_volumes = on;
    }

    /// Reads or changes the account's settings that moto does not know.
    pub fn settings<T>(&self, act: impl FnOnce(&mut Settings) -> T) -> T {
        act(&mut self.gaps.lock().unwrap().settings)
    }

    /// Shows these default groups where all are asked for, and no others.
    pub fn default_groups<'a>(&self, ids: impl IntoIterator<Item = &'a str>) {
        let ids = ids.into_iter().map(str::to_owned).collect();
        self.gaps.lock().unwrap().default_groups = ids;
    }

    /// Reads or changes the metadata service of an instance.
    pub fn metadata<T>(&self, instance: &str, act: impl FnOnce(&mut Metadata) -> T) -> T {
        let metadata = &mut self.gaps.lock().unwrap().metadata;
        act(metadata.entry(instance.to_owned()).or_default())
    }

    /// Makes functions see that an instance was last started at a time.
    pub fn started_at(&self, instance: &str, at: jiff::Timestamp) {
        let (instance, at) = (instance.to_owned(), at.to_string());
        self.gaps.lock().unwrap().launched.insert(instance, at);
    }

    fn inject(
        &self,
        function: Option<String>,
        action: &str,
        skip: usize,
        times: usize,
        fault: Fault,
    ) {
        let action = action.to_owned();
        self.state.lock().unwrap().injections.push(Injection {
            function,
            action,
            skip,
            times,
            fault,
        });
    }

    /// How many faults have not been met by a call.
    #[must_use]
    pub fn faults_left(&self) -> usize {
        self.state.lock().unwrap().injections.len()
    }

    /// Forgets what was still to be injected.
    pub fn forget_faults(&self) {
        self.state.lock().unwrap().injections.clear();
    }

    /// Forgets what was recorded and what was still to be injected.
    pub fn reset(&self) {
        let mut state = self.state.lock().unwrap();
        state.calls.clear();
        state.injections.clear();
        drop(state);
        self.copy_volumes(false);
    }

    /// Every call since the last reset, in the order they came in.
    #[must_use]
    pub fn calls(&self) -> Vec<Call> {
        let mut calls = self.state.lock().unwrap().calls.clone();
        calls.sort_by_key(|call| call.from);
        calls
    }

    /// The calls of one operation.
    #[must_use]
    pub fn calls_of(&self, action: &str) -> Vec<Call> {
        self.calls()
            .into_iter()
            .filter(|call| call.action == action)
            .collect()
    }

    /// How many calls are being answered right now.
    #[must_use]
    pub fn under_way(&self) -> usize {
        self.state.lock().unwrap().under_way
    }

    /// How many calls have been answered, resets or not.
    #[must_use]
    pub fn answered(&self) -> usize {
        self.state.lock().unwrap().answered
    }

    fn serve(&self, stream: &TcpStream, to: SocketAddr) -> io::Result<()> {
        stream.set_nodelay(true)?;
        let Some(request) = Message::read(stream)? else {
            return Ok(());
        };
        let mut call = describe(&request);
        let attribute = {
            let mut state = self.state.lock().unwrap();
            state.under_way += 1;
            state.injections.iter().any(|i| {
                let of_process = i.function.is_some() || matches!(i.fault, Fault::Kill);
                of_process && call.is_named(&i.action)
            })
        };
        let caller = attribute.then(|| caller(stream)).flatten();
        call.function = caller.as_ref().map(|caller| caller.function.clone());
        let outcome = self.answer(&request, &mut call, to, stream, caller);
        call.to = Instant::now();
        if let Ok(answer) = &outcome {
            call.status = answer.status();
        }
        {
            // Recorded before the caller can know of it.
            let mut state = self.state.lock().unwrap();
            state.answered += 1;
            state.calls.push(call);
            state.under_way -= 1;
        }
        outcome?.write(stream)
    }

    fn answer(
        &self,
        request: &Message,
        call: &mut Call,
        to: SocketAddr,
        stream: &TcpStream,
        caller: Option<Caller>,
    ) -> io::Result<Message> {
        let dropped = || io::Error::new(io::ErrorKind::ConnectionAborted, "injected");
        let forward = |call: &Call| {
            let answer = self.systems_manager.answer(&self.upstreams, request, call);
            answer.unwrap_or_else(|| gaps::forward(&self.gaps, &self.upstreams, request, call, to))
        };
        // Taken out of the lock: a fault may itself take time or call AWS.
        let taken = self.take(call);
        call.faulted = taken.is_some();
        let Some(mut injection) = taken else {
            return forward(call);
        };
        let answer = match &mut injection.fault {
            Fault::Error {
                status,
                code,
                message,
            } => Ok(error(&call.service, *status, code, message)),
            Fault::Drop => Err(dropped()),
            Fault::AnswerLost => forward(call).and_then(|_| Err(dropped())),
            Fault::Silence => {
                // Returns when the caller has hung up.
                let _ = (&*stream).read(&mut [0; 1]);
                Err(dropped())
            }
            Fault::Kill => {
                let caller = caller.expect("a caller that is known");
                let answer = forward(call);
                let process = caller.process.to_string();
                let killed = Command::new("kill").args(["-9", &process]).status()?;
                assert!(killed.success(), "the process {process} cannot be killed");
                answer.and_then(|_| Err(dropped()))
            }
            Fault::Before(act) => {
                act(&self.upstreams);
                forward(call)
            }
            Fault::Answer(body) => {
                let kind = if body.starts_with('{') {
                    "application/x-amz-json-1.1"
                } else {
                    "text/xml"
                };
                Ok(Message::answer(200, &[("content-type", kind)], body))
            }
            Fault::Rewrite(change) => forward(call).map(|mut answer| {
                answer.body = change(answer.text()).into_bytes();
                answer
            }),
        };
        if injection.times > 0 {
            self.state.lock().unwrap().injections.insert(0, injection);
        }
        answer
    }

    fn take(&self, call: &Call) -> Option<Injection> {
        let mut state = self.state.lock().unwrap();
        let at = state.injections.iter().position(|i| {
            call.is_named(&i.action) && (i.function.is_none() || i.function == call.function)
        })?;
        if let Some(left) = state.injections[at].skip.checked_sub(1) {
            state.injections[at].skip = left;
            return None;
        }
        let mut injection = state.injections.remove(at);
        injection.times = injection.times.checked_sub(1)?;
        Some(injection)
    }
}

/// How many calls had to wait for another to end: the sequential rounds that a
/// run needed. Calls that overlap are one round.
#[must_use]
pub fn rounds(calls: &[Call]) -> Vec<Vec<String>> {
    let mut rounds: Vec<(Instant, Vec<String>)> = Vec::new();
    let mut calls: Vec<&Call> = calls.iter().collect();
    calls.sort_by_key(|call| call.from);
    for call in calls {
        match rounds.last_mut() {
            // `to` of a round: when the first of its calls was answered; what
            // began later may have waited for it.
            Some((to, names)) if call.from < *to => {
                *to = (*to).min(call.to);
                names.push(call.action.clone());
            }
            _ => rounds.push((call.to, vec![call.action.clone()])),
        }
    }
    rounds.into_iter().map(|(_, names)| names).collect()
}

/// The distinct operations among calls, as IAM writes them: `ec2:Revoke...`.
#[must_use]
pub fn actions(calls: &[Call]) -> HashSet<String> {
    calls
        .iter()
        .map(|call| format!("{}:{}", call.service, call.action))
        .collect()
}

fn describe(request: &Message) -> Call {
    let text = request.text();
    let service = request
        .header("authorization")
        .and_then(|v| v.split("Credential=").nth(1))
        .and_then(|v| v.split('/').nth(3))
        .unwrap_or("unknown")
        .to_owned();
    let (action, body) = match request.header("x-amz-target") {
        Some(target) => (
            target.rsplit('.').next().unwrap_or(target).to_owned(),
            serde_json::from_str(&text).unwrap_or(Value::Null),
        ),
        None => {
            let fields = parse_form(&text);
            let action = fields
                .iter()
                .find(|(k, _)| k == "Action")
                .map(|(_, v)| v.clone());
            let fields = fields.into_iter().map(|(k, v)| (k, json!(v))).collect();
            (
                action.unwrap_or_else(|| request.start.clone()),
                Value::Object(fields),
            )
        }
    };
    let now = Instant::now();
    Call {
        service,
        action,
        request: body,
        status: 0,
        from: now,
        to: now,
        faulted: false,
        function: None,
    }
}

/// The process at the other end of a connection.
struct Caller {
    process: u32,
    /// The Lambda function that it runs.
    function: String,
}

/// Finds the function's process that holds the other end of a connection, by
/// the socket's inode (Linux: `proc(5)`).
fn caller(stream: &TcpStream) -> Option<Caller> {
    // Both ends: a port may be in use towards several others.
    let ends = format!(
        ": 0100007F:{:04X} 0100007F:{:04X} ",
        stream.peer_addr().ok()?.port(),
        stream.local_addr().ok()?.port()
    );
    let connections = fs::read_to_string("/proc/net/tcp").ok()?;
    let connection = connections.lines().find(|line| line.contains(&ends))?;
    let inode = connection.split_whitespace().nth(9)?;
    let socket = format!("socket:[{inode}]");
    for process in fs::read_dir("/proc").ok()?.flatten() {
        let Some(id) = process
            .file_name()
            .to_str()
            .and_then(|name| name.parse().ok())
        else {
            continue;
        };
        let of_function = || {
            let environment = fs::read(process.path().join("environ")).ok()?;
            let mut variables = environment.split(|byte| *byte == 0);
            let name = variables.find_map(|v| v.strip_prefix(b"AWS_LAMBDA_FUNCTION_NAME="))?;
            Some(String::from_utf8_lossy(name).into_owned())
        };
        let Some(function) = of_function() else {
            continue;
        };
        let holds = fs::read_dir(process.path().join("fd"))
            .into_iter()
            .flatten()
            .flatten()
            .any(|fd| fs::read_link(fd.path()).is_ok_and(|to| to.as_os_str() == socket.as_str()));
        if holds {
            return Some(Caller {
                process: id,
                function,
            });
        }
    }
    None
}

pub(super) fn error(service: &str, status: u16, code: &str, message: &str) -> Message {
    let xml = [("content-type", "text/xml;charset=UTF-8")];
    match service {
        "ec2" => Message::answer(
            status,
            &xml,
            &format!(
                "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n<Response><Errors><Error><Code>{code}</Code>\
                 <Message>{message}</Message></Error></Errors><RequestID>injected</RequestID></Response>"
            ),
        ),
        "sns" | "iam" | "sts" => Message::answer(
            status,
            &xml,
            &format!(
                "<ErrorResponse><Error><Type>Sender</Type><Code>{code}</Code><Message>{message}</Message>\
                 </Error><RequestId>injected</RequestId></ErrorResponse>"
            ),
        ),
        _ => Message::answer(
            status,
            &[
                ("content-type", "application/x-amz-json-1.1"),
                ("x-amzn-errortype", code),
            ],
            &json!({"__type": code, "message": message}).to_string(),
        ),
    }
}
