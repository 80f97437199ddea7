//! The environments that the scenarios of one test binary share. A scenario
//! takes whichever is free, so libtest's threads spread them and the load
//! balances itself.

use super::{LocalAws, Options, Result, Site, workshop};
use std::fmt::Write as _;
use std::fs;
use std::panic::{AssertUnwindSafe, Location, catch_unwind, resume_unwind};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

/// How many environments there are at most. Two keep two cores busy: each
/// scenario waits for its functions most of the time, and an environment is two
/// Python processes that one core serves. A third one only takes memory.
const ENVIRONMENTS: usize = 2;

/// One local AWS, with the runtime that its clients belong to.
struct Environment {
    number: usize,
    runtime: tokio::runtime::Runtime,
    aws: Result<LocalAws>,
}

struct Pool {
    free: Vec<Environment>,
    /// How many have been started, or are being started.
    started: usize,
    site: Option<std::result::Result<Arc<Site>, String>>,
    /// What has run, for the table.
    ran: Vec<Ran>,
}

static POOL: Mutex<Pool> = Mutex::new(Pool {
    free: Vec::new(),
    started: 0,
    site: None,
    ran: Vec::new(),
});
static RETURNED: Condvar = Condvar::new();

/// Runs one scenario on one of the environments that this test binary shares.
/// While it runs, the environment is its own: what the proxy records and injects
/// belongs to one scenario.
///
/// How long each took is in `target/local-aws/scenarios.txt`, the slowest first.
#[track_caller]
pub fn scenario(run: impl AsyncFnOnce(&LocalAws)) {
    // With one thread libtest runs tests on its own.
    let name = match thread::current().name() {
        Some(name) if name != "main" => name.to_owned(),
        _ => Location::caller().to_string(),
    };
    let environment = take();
    let started = Instant::now();
    let mut clean = Duration::ZERO;
    // A scenario that fails must not take its environment with it.
    let outcome = catch_unwind(AssertUnwindSafe(|| {
        let aws = match &environment.aws {
            Ok(aws) => aws,
            Err(problem) => panic!("the local AWS did not start: {problem}"),
        };
        environment.runtime.block_on(async {
            aws.begin().await.expect("a clean start");
            clean = started.elapsed();
            run(aws).await;
        });
    }));
    give_back(
        Ran {
            name,
            environment: environment.number,
            clean,
            whole: started.elapsed(),
            failed: outcome.is_err(),
        },
        environment,
    );
    if let Err(failure) = outcome {
        resume_unwind(failure);
    }
}

fn pool() -> MutexGuard<'static, Pool> {
    POOL.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A free environment, or a new one while there may be more; else waits for one,
/// for as long as it takes.
fn take() -> Environment {
    let mut pool = pool();
    loop {
        if let Some(free) = pool.free.pop() {
            return free;
        }
        if pool.started < ENVIRONMENTS {
            pool.started += 1;
            let number = pool.started;
            // The pool stays locked meanwhile: the next one shares the same.
            let site = pool.site.get_or_insert_with(|| {
                Site::open(&Options::default(), |line| eprintln!("    {line}"))
                    .map_err(|problem| problem.to_string())
            });
            let site = site.clone();
            drop(pool);
            return start(number, site);
        }
        pool = RETURNED.wait(pool).unwrap_or_else(PoisonError::into_inner);
    }
}

fn start(number: usize, site: std::result::Result<Arc<Site>, String>) -> Environment {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .expect("a runtime");
    let progress = |line: &str| eprintln!("    environment {number}: {line}");
    let aws = match site {
        Ok(site) => runtime.block_on(LocalAws::start_on(site, number, progress)),
        Err(problem) => Err(problem.into()),
    };
    Environment {
        number,
        runtime,
        aws,
    }
}

fn give_back(ran: Ran, environment: Environment) {
    let mut pool = pool();
    pool.ran.push(ran);
    // It is for people: a test does not fail for it.
    let _ = fs::write(workshop().join("scenarios.txt"), table(&mut pool.ran));
    pool.free.push(environment);
    RETURNED.notify_one();
}

/// A scenario that ran.
struct Ran {
    name: String,
    environment: usize,
    /// Until the environment was clean.
    clean: Duration,
    whole: Duration,
    failed: bool,
}

/// The table of scenarios that ran, slowest first, with totals.
fn table(ran: &mut [Ran]) -> String {
    ran.sort_by_key(|one| std::cmp::Reverse(one.whole));
    let mut table = "   whole   clean  environment\n".to_owned();
    for one in &*ran {
        let _ = writeln!(
            table,
            "{:>6.1} s {:>5.2} s  {}  {}{}",
            one.whole.as_secs_f32(),
            one.clean.as_secs_f32(),
            one.environment,
            one.name,
            if one.failed { "  FAILED" } else { "" }
        );
    }
    let sum = |of: fn(&Ran) -> Duration| ran.iter().map(of).sum::<Duration>().as_secs_f32();
    let _ = writeln!(
        table,
        "{:>6.1} s {:>5.2} s     all {}",
        sum(|one| one.whole),
        sum(|one| one.clean),
        ran.len()
    );
    table
}
