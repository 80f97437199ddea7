//! Settings of the account that protect more or less: restored to exactly what
//! they were, set to what the policy wants, and otherwise only reported.

use backstop_core::account_setting::{AccountSetting, Graded};
use backstop_core::control::{ByHand, Control};
use backstop_core::controls::image_sharing_block::{self, ImageSharingBlock};
use backstop_core::controls::metadata_defaults::{Defaults, HttpTokens, MetadataDefaults};
use backstop_core::controls::serial_console::{Access, SerialConsole};
use backstop_core::controls::snapshot_sharing_block::{Block, SnapshotSharingBlock};
use backstop_core::decide::{self, Circumstances, Decision};
use backstop_core::guards::Guards;
use backstop_core::plan::Change;
use backstop_core::policy::{Governed, Policy};
use backstop_core::reason::Reason;
use backstop_core::words::{Mode, Severity};
use serde_json::{Value, json};

const ACCOUNT: &str = "111122223333";

fn setting<C: Control>(state: C::State) -> AccountSetting<C::State> {
    AccountSetting::new(C::INFO.id.name(), "aws", "eu-central-1", ACCOUNT, state)
}

fn decide<C, S: Graded>(
    setting: &AccountSetting<S>,
    former: Option<&S>,
    settings: &Value,
) -> Decision<S>
where
    C: Governed<State = S, Facts = AccountSetting<S>>,
{
    let control = C::INFO.id.name();
    let policy = json!({ "version": 1, "controls": { control: { "settings": settings } } });
    let policy = Policy::parse(&policy.to_string()).unwrap();
    let guards = Guards {
        former: former.map(|former| serde_json::to_value(former).unwrap()),
        ..Guards::default()
    };
    let at = Circumstances {
        mode: Mode::Enforce,
        account: ACCOUNT,
        now: "2026-11-24T12:00:00Z".parse().unwrap(),
        guards: &guards,
    };
    decide::decide::<C>(Some(setting), &C::rules(&policy), &at)
}

const fn tokens(http_tokens: Option<HttpTokens>, hops: Option<i32>) -> Defaults {
    Defaults {
        http_tokens,
        http_put_response_hop_limit: hops,
    }
}

/// Now, before, wanted: what becomes of it.
type Row<S> = (S, Option<S>, Option<S>, Expected<S>);

enum Expected<S> {
    Compliant,
    Set(S),
    Left(Reason),
}

fn check<C, S: Graded>(rows: Vec<Row<S>>)
where
    C: Governed<State = S, Facts = AccountSetting<S>>,
{
    for (now, former, wanted, expected) in rows {
        let what = format!("{now:?}, before {former:?}, wanted {wanted:?}");
        let settings = wanted.map_or_else(|| json!({}), |wanted| json!({ "wanted": wanted }));
        let decision = decide::<C, _>(&setting::<C>(now.clone()), former.as_ref(), &settings);
        let item = C::INFO.id.name();
        match expected {
            Expected::Compliant => assert_eq!(decision.finding(), None, "{what}"),
            Expected::Set(to) => {
                let plan = decision.plan.unwrap();
                assert_eq!(plan.because, None, "{what}");
                assert_eq!(plan.changes, [Change::set(item, now, to)], "{what}");
            }
            Expected::Left(reason) => {
                let plan = decision.plan.unwrap();
                assert_eq!(plan.because, Some(reason), "{what}");
                assert_eq!(plan.changes, [], "{what}");
            }
        }
    }
}

#[test]
fn the_block_of_public_snapshots_is_restored_to_exactly_what_it_was() {
    use Block::{BlockAllSharing as All, BlockNewSharing as New, Unblocked as Off};
    use Expected::{Compliant, Left, Set};
    check::<SnapshotSharingBlock, Block>(vec![
        (All, None, None, Compliant),
        (New, None, None, Compliant),
        (Off, None, None, Left(Reason::NeverSet)),
        (Off, Some(New), None, Set(New)),
        (Off, Some(All), None, Set(All)),
        (New, Some(All), None, Set(All)),
        (All, Some(New), None, Compliant),
        // The policy's word counts, whatever was before.
        (Off, None, Some(New), Set(New)),
        (Off, Some(New), Some(All), Set(All)),
        (New, Some(All), Some(New), Compliant),
        (New, None, Some(All), Set(All)),
        (All, None, Some(New), Compliant),
    ]);
}

#[test]
fn the_metadata_defaults_are_restored_with_the_hop_limit_that_they_had() {
    use Expected::{Compliant, Left, Set};
    let required = |hops| tokens(Some(HttpTokens::Required), hops);
    let optional = tokens(Some(HttpTokens::Optional), None);
    let none = Defaults::default();
    check::<MetadataDefaults, Defaults>(vec![
        (none, None, None, Left(Reason::NeverSet)),
        (optional, None, None, Left(Reason::NeverSet)),
        (required(None), None, None, Compliant),
        (
            optional,
            Some(required(Some(2))),
            None,
            Set(required(Some(2))),
        ),
        (none, Some(required(None)), None, Set(required(None))),
        // A hop limit is for people to decide.
        (required(Some(3)), Some(required(Some(2))), None, Compliant),
        (none, None, Some(required(Some(2))), Set(required(Some(2)))),
    ]);
}

#[test]
fn the_serial_console_is_turned_off_where_it_was_off() {
    use Access::{Disabled, Enabled};
    use Expected::{Compliant, Left, Set};
    check::<SerialConsole, Access>(vec![
        (Disabled, None, None, Compliant),
        (Enabled, None, None, Left(Reason::NeverSet)),
        (Enabled, Some(Disabled), None, Set(Disabled)),
        (Enabled, None, Some(Disabled), Set(Disabled)),
    ]);
}

#[test]
fn the_block_of_public_images_is_restored_where_it_was_on() {
    use Expected::{Compliant, Left, Set};
    use image_sharing_block::Block::{BlockNewSharing as On, Unblocked as Off};
    check::<ImageSharingBlock, image_sharing_block::Block>(vec![
        (On, None, None, Compliant),
        (On, Some(On), None, Compliant),
        // It is off by default in accounts that had public images.
        (Off, None, None, Left(Reason::NeverSet)),
        (Off, Some(On), None, Set(On)),
        (Off, None, Some(On), Set(On)),
    ]);
    for (to, command) in [
        (
            Off,
            "disable-image-block-public-access --region eu-central-1",
        ),
        (
            On,
            "enable-image-block-public-access --region eu-central-1 --image-block-public-access-state block-new-sharing",
        ),
    ] {
        let by_hand = ByHand {
            resource: "eu-central-1",
            region: "eu-central-1",
            item: "image-sharing-block",
            left: None,
            to: Some(to),
            opt_out: "",
            outcomes: &[],
        };
        let commands = <ImageSharingBlock as Control>::commands(&by_hand);
        assert_eq!(commands, [format!("aws ec2 {command}")]);
    }
}

#[test]
fn what_a_declarative_policy_sets_is_reported_and_never_changed() {
    let managed = |state| AccountSetting {
        by_declarative_policy: true,
        ..setting::<SnapshotSharingBlock>(state)
    };
    for (former, wanted) in [
        (None, json!({})),
        (Some(Block::BlockAllSharing), json!({})),
        (None, json!({ "wanted": "block-all-sharing" })),
    ] {
        let weak = managed(Block::Unblocked);
        let plan = decide::<SnapshotSharingBlock, _>(&weak, former.as_ref(), &wanted).plan;
        let plan = plan.unwrap();
        assert_eq!(plan.because, Some(Reason::DeclarativePolicy));
        assert_eq!(plan.changes, []);
    }
    let good = managed(Block::BlockAllSharing);
    assert_eq!(
        decide::<SnapshotSharingBlock, _>(&good, None, &json!({})).plan,
        None
    );
}

#[test]
fn an_exemption_in_the_policy_spares_it_until_its_last_day() {
    let weak = setting::<SnapshotSharingBlock>(Block::Unblocked);
    let exempt = |until: &str| json!({ "exemption": { "until": until, "owner": "platform" } });
    for (until, because) in [
        ("2026-11-24", Some(Reason::ExemptInPolicy)),
        ("2026-11-23", None),
    ] {
        let former = Some(&Block::BlockNewSharing);
        let plan = decide::<SnapshotSharingBlock, _>(&weak, former, &exempt(until)).plan;
        assert_eq!(plan.unwrap().because, because, "{until}");
    }
}

#[test]
fn what_was_never_set_is_of_low_severity_and_what_was_weakened_of_medium() {
    let weak = setting::<SerialConsole>(Access::Enabled);
    for (former, severity) in [
        (None, Severity::Low),
        (Some(&Access::Disabled), Severity::Medium),
    ] {
        let decision = decide::<SerialConsole, _>(&weak, former, &json!({}));
        assert_eq!(decision.finding().unwrap().severity, severity);
    }
}

#[test]
fn the_best_state_is_kept_and_a_worse_one_never_replaces_it() {
    use Block::{BlockAllSharing as All, BlockNewSharing as New, Unblocked as Off};
    for (now, former, kept) in [
        (Off, None, None),
        (New, None, Some(New)),
        (New, Some(New), None),
        (All, Some(New), Some(All)),
        (New, Some(All), None),
        (Off, Some(All), None),
    ] {
        let keeps =
            SnapshotSharingBlock::keeps(&setting::<SnapshotSharingBlock>(now), former.as_ref());
        assert_eq!(keeps, kept, "{now:?} after {former:?}");
    }
    // As good, and another: the last one is what a person set.
    let hops = |hops| tokens(Some(HttpTokens::Required), Some(hops));
    let now = setting::<MetadataDefaults>(hops(2));
    assert_eq!(MetadataDefaults::keeps(&now, Some(&hops(1))), Some(hops(2)));
}

#[test]
fn the_baseline_spares_a_setting_as_it_noted_it_and_nothing_weaker() {
    let print =
        |block| SnapshotSharingBlock::fingerprint("eu-central-1", "snapshot-sharing-block", &block);
    assert_ne!(print(Block::Unblocked), print(Block::BlockNewSharing));
}

#[test]
fn by_hand_a_setting_gets_exactly_the_value_that_it_had() {
    let by_hand = |to| ByHand {
        resource: "eu-central-1",
        region: "eu-central-1",
        item: "metadata-defaults",
        left: None,
        to: Some(to),
        opt_out: "",
        outcomes: &[],
    };
    assert_eq!(
        <MetadataDefaults as Control>::commands(&by_hand(Defaults::default())),
        [
            "aws ec2 modify-instance-metadata-defaults --region eu-central-1 --http-tokens no-preference --http-put-response-hop-limit -1"
        ]
    );
}

#[test]
fn a_value_that_cannot_be_wanted_is_refused_with_its_field() {
    for (control, wanted, problem) in [
        (
            "snapshot-sharing-block",
            json!("unblocked"),
            "`controls.snapshot-sharing-block.settings.wanted`: it protects nothing",
        ),
        (
            "snapshot-sharing-block",
            json!("block-all"),
            "`controls.snapshot-sharing-block.settings.wanted`: unknown variant `block-all`",
        ),
        (
            "serial-console",
            json!("enabled"),
            "`controls.serial-console.settings.wanted`: it protects nothing",
        ),
        (
            "serial-console",
            json!(false),
            "`controls.serial-console.settings.wanted`: ",
        ),
        (
            "serial-console",
            json!("off"),
            "`controls.serial-console.settings.wanted`: unknown variant `off`, expected `enabled` or `disabled`",
        ),
        (
            "image-sharing-block",
            json!("unblocked"),
            "`controls.image-sharing-block.settings.wanted`: it protects nothing",
        ),
        (
            "image-sharing-block",
            json!("block-all-sharing"),
            "`controls.image-sharing-block.settings.wanted`: unknown variant `block-all-sharing`, expected `unblocked` or `block-new-sharing`",
        ),
        (
            "snapshot-sharing-block",
            json!(["block-all-sharing"]),
            "`controls.snapshot-sharing-block.settings.wanted`: ",
        ),
        (
            "metadata-defaults",
            json!({ "http_tokens": "always", "http_put_response_hop_limit": 2 }),
            "`controls.metadata-defaults.settings.wanted.http_tokens`: unknown variant `always`",
        ),
        (
            "metadata-defaults",
            json!({ "http_tokens": "required", "hop_limit": 2 }),
            "`controls.metadata-defaults.settings.wanted.hop_limit`: unknown field",
        ),
        (
            "metadata-defaults",
            json!({ "http_tokens": "required", "http_put_response_hop_limit": "2" }),
            "`controls.metadata-defaults.settings.wanted.http_put_response_hop_limit`: ",
        ),
        (
            "metadata-defaults",
            json!({ "http_tokens": "required" }),
            "`controls.metadata-defaults.settings.wanted.http_put_response_hop_limit`: it is missing",
        ),
        (
            "metadata-defaults",
            json!({ "http_tokens": "required", "http_put_response_hop_limit": 65 }),
            "`controls.metadata-defaults.settings.wanted.http_put_response_hop_limit`: 65 is out of range; allowed is 1 to 64",
        ),
        (
            "metadata-defaults",
            json!({ "http_tokens": "optional", "http_put_response_hop_limit": 2 }),
            "`controls.metadata-defaults.settings.wanted`: it protects nothing",
        ),
    ] {
        let policy =
            json!({ "version": 1, "controls": { control: { "settings": { "wanted": wanted } } } });
        let refused = Policy::parse(&policy.to_string()).unwrap_err().to_string();
        assert!(refused.contains(problem), "{refused}");
    }
    let nobody = json!({ "version": 1, "controls": { "serial-console": { "settings": { "exemption": { "until": "2027-01-31", "owner": " " } } } } });
    let refused = Policy::parse(&nobody.to_string()).unwrap_err().to_string();
    assert!(
        refused.contains("`controls.serial-console.settings.exemption.owner`"),
        "{refused}"
    );
}
