//! The encryption of volumes in a simulated EC2: random runs, held against an
//! oracle of its own, and named scenarios.
//!
//! `sim` is what is there and the clock, `ec2` what EC2 does, `others` what
//! other people do, `caller` the invocations with all that goes wrong in them,
//! `oracle` what must hold, `scenarios` single stories. A run follows from its
//! seed alone: `SEED=… cargo test --workspace --test it random_runs -- --nocapture`
//! shows one, step by step, and `RUNS=…` plays so many.
//!
//! Deliberately not here: the real calls (`backstop-aws`) and the real function
//! that makes them; both are tested against the local AWS.

mod caller;
mod ec2;
mod oracle;
mod others;
mod rng;
mod scenarios;
mod sim;

use caller::play;
use others::Other;
use rng::Rng;
use sim::{Call, Coverage, Health, Kind, Make, Plan, Take, When};

/// How many, unless `RUNS` says otherwise. The step function was written against
/// 100,000.
const RUNS: u64 = 20_000;

#[test]
#[allow(
    clippy::disallowed_methods,
    reason = "a seed to look at comes from outside"
)]
fn random_runs_keep_what_always_holds() {
    let asked = |name: &str| std::env::var(name).ok().map(|n| n.parse().unwrap());
    if let Some(seed) = asked("SEED") {
        let sim = play(random(seed), Coverage::new(), true);
        println!("{}", story(sim));
        return;
    }
    let runs = asked("RUNS").unwrap_or(RUNS);
    // Each seed is a world of its own, so it does not matter how many play.
    let threads = std::thread::available_parallelism().map_or(1, |n| n.get() as u64);
    let played: Vec<_> = std::thread::scope(|scope| {
        let workers: Vec<_> = (0..threads)
            .map(|first| scope.spawn(move || play_all((first..runs).step_by(threads as usize))))
            .collect();
        workers.into_iter().map(|w| w.join().unwrap()).collect()
    });
    if let Some(seed) = played.iter().filter_map(|(_, broken)| *broken).min() {
        panic!("{}", shrunk(random(seed)));
    }
    let mut total = Coverage::new();
    for (what, count) in played.into_iter().flat_map(|(coverage, _)| coverage) {
        *total.entry(what).or_default() += count;
    }
    for (what, count) in &total {
        println!("{count:>9}  {what}");
    }
    covers(&total, runs);
}

/// Plays these seeds up to the first that breaks: what was met, and that one.
fn play_all(seeds: impl Iterator<Item = u64>) -> (Coverage, Option<u64>) {
    let mut coverage = Coverage::new();
    for seed in seeds {
        let sim = play(random(seed), coverage, false);
        coverage = sim.coverage;
        if sim.broken.is_some() {
            return (coverage, Some(seed));
        }
    }
    (coverage, None)
}

/// Nothing of what is simulated is met so rarely that it says nothing.
fn covers(met: &Coverage, runs: u64) {
    let calls = Call::ALL.map(Call::name);
    let others = Other::ALL.map(|(_, name)| name);
    let faults = [
        "a refusal",
        "a lost reply",
        "a call that takes effect late",
        "a call is made twice",
        "killed after the look",
        "killed after a note",
        "killed before the call",
        "killed after the call",
        "two at once",
        "two at once, before the call",
        "a step that was overtaken",
        "a long gap",
        "given up from outside",
        "a stop hangs",
        "the key fails at a start",
        "the status checks fail",
        "InsufficientInstanceCapacity",
        "InvalidAction",
        "never ended",
    ];
    let ends = [
        "remediated",
        "rolled-back",
        "refused",
        "pending",
        "needs-person",
    ];
    for what in calls.iter().chain(&others).chain(&faults).chain(&ends) {
        let times = met.get(what).copied().unwrap_or(0);
        assert!(times > runs / 2000, "{what}: {times} times in {runs} runs");
    }
}

/// A plan, from a seed.
fn random(seed: u64) -> Plan {
    let mut rng = Rng::new(seed ^ 0x5eed_0000_0000);
    let kind = match rng.between(0, 9) {
        0 => Kind::Unattached,
        1 => Kind::WhenStopped,
        2 => Kind::Undo,
        _ => Kind::Swap,
    };
    let mut plan = Plan::calm(kind, seed);
    plan.volumes = usize::try_from(rng.between(1, 3)).unwrap();
    plan.running = rng.per_mille(800);
    plan.lags = rng.per_mille(500);
    plan.max_downtime_minutes = rng.one_of(&[15, 30, 60]);
    plan.check_seconds = rng.between(10, 240);
    if rng.per_mille(100) {
        return plan;
    }
    plan.changes_of_mind = true;
    let day = 86400;
    plan.trouble_ends = rng.one_of(&[1800, 3 * 3600, day]);
    let make = |rng: &mut Rng| match rng.between(0, 99) {
        0 => Make::Slow(3 * 3600),
        1..=4 => Make::Slow(1200),
        5..=30 => rng.one_of(&[
            Make::Refused("InvalidAction"),
            Make::Refused("UnsupportedOperation"),
            Make::Refused("VolumeLimitExceeded"),
            Make::Unencrypted,
            Make::OtherType,
            Make::Error,
        ]),
        _ => Make::Fine,
    };
    plan.copy = make(&mut rng);
    plan.create = make(&mut rng);
    let take = |rng: &mut Rng| match rng.between(0, 299) {
        0 => Take::Slow(50 * 3600),
        1..=9 => Take::Slow(2 * 3600),
        10..=20 => Take::Error,
        _ => Take::Fine,
    };
    plan.safety = take(&mut rng);
    plan.transfer = take(&mut rng);
    if rng.per_mille(30) {
        plan.stop_seconds = (1200, 3600);
    }
    if rng.per_mille(100) {
        plan.health = rng.one_of(&[Health::BadOnCopies, Health::Bad]);
    }
    if rng.per_mille(100) {
        plan.check_seconds = rng.between(240, 1200);
    }
    if rng.per_mille(80) {
        plan.capacity_from = rng.one_of(&[1800, 3600, 3 * 3600]);
    }
    if rng.per_mille(2) {
        plan.capacity_from = i64::MAX;
    }
    if rng.per_mille(80) {
        plan.kms_from = rng.one_of(&[1800, day]);
    }
    if rng.per_mille(100) {
        let from = rng.one_of(&[1, 2]) * 3600;
        plan.window = Some((from, 3 * 3600));
        plan.begins = rng.between(from, 3 * 3600);
    }
    if rng.per_mille(150) {
        let code = rng.one_of(&[
            "UnauthorizedOperation",
            "RequestLimitExceeded",
            "InternalError",
        ]);
        let until = rng.one_of(&[600, 3600, 6 * 3600]);
        plan.denied = Some((rng.one_of(&Call::ALL), code, until));
    }
    if rng.per_mille(500) {
        let often = rng.one_of(&[20, 100, 250]);
        let mut chance = || if rng.per_mille(500) { often } else { 0 };
        plan.refused = chance();
        plan.lost = chance();
        plan.killed = chance();
        plan.twins = chance();
        plan.gaps = chance() / 10;
        plan.given_up = chance() / 10;
    }
    if rng.per_mille(600) {
        for _ in 0..rng.between(1, 4) {
            let other = Other::any(&mut rng);
            let after = other.fits_after().unwrap_or(rng.one_of(&Call::ALL));
            let when = match rng.per_mille(300) {
                true => When::At(rng.between(0, 3600)),
                false => When::After(after, rng.between(0, 120)),
            };
            plan.others.push((when, other));
        }
    }
    plan
}

/// The story of a broken run, with as little as breaks it.
fn shrunk(plan: Plan) -> String {
    let breaks = |plan: &Plan| play(plan.clone(), Coverage::new(), false).broken.is_some();
    let mut least = plan;
    let simpler: [fn(&mut Plan); 20] = [
        |p| p.refused = 0,
        |p| p.lost = 0,
        |p| p.killed = 0,
        |p| p.twins = 0,
        |p| p.gaps = 0,
        |p| p.given_up = 0,
        |p| p.lags = false,
        |p| p.volumes = 1,
        |p| p.copy = Make::Fine,
        |p| p.create = Make::Fine,
        |p| p.safety = Take::Fine,
        |p| p.transfer = Take::Fine,
        |p| p.health = Health::Good,
        |p| p.capacity_from = 0,
        |p| p.kms_from = 0,
        |p| p.denied = None,
        |p| p.window = None,
        |p| p.stop_seconds = (10, 60),
        |p| p.check_seconds = 60,
        |p| p.max_downtime_minutes = 30,
    ];
    for simplify in simpler {
        let mut less = least.clone();
        simplify(&mut less);
        if breaks(&less) {
            least = less;
        }
    }
    for n in (0..least.others.len()).rev() {
        let mut less = least.clone();
        less.others.remove(n);
        if breaks(&less) {
            least = less;
        }
    }
    // Another course of the same plan may be shorter.
    let seed = least.seed;
    let length = |plan: &Plan| {
        let sim = play(plan.clone(), Coverage::new(), true);
        (sim.broken.is_some(), sim.trace.map_or(0, |t| t.len()))
    };
    let mut shortest = length(&least).1;
    for n in 0..300 {
        let less = Plan {
            seed: seed + 1_000_003 * n,
            ..least.clone()
        };
        let (broken, lines) = length(&less);
        if broken && lines < shortest {
            shortest = lines;
            least = less;
        }
    }
    let sim = play(least, Coverage::new(), true);
    format!("seed {seed}\n{}", story(sim))
}

fn story(sim: sim::Sim) -> String {
    format!(
        "{:#?}\n{}\n{}",
        sim.plan,
        sim.trace.unwrap_or_default().join("\n"),
        sim.broken.unwrap_or_else(|| "nothing is wrong".to_owned())
    )
}
