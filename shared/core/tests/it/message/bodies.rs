//! What the other protocols get, and the attributes.

use backstop_core::plan::Ending;
use expect_test::expect;
use serde_json::Value;

use super::fixtures::{Entry, body, compose, narrowed, revoked};

#[test]
fn every_kind_of_subscriber_has_its_body() {
    let message = compose(&revoked());
    let bodies: serde_json::Map<String, Value> = serde_json::from_str(&message.body).unwrap();
    let protocols: Vec<&str> = bodies.keys().map(String::as_str).collect();
    assert_eq!(
        protocols,
        [
            "default",
            "email",
            "email-json",
            "firehose",
            "http",
            "https",
            "lambda",
            "sqs"
        ]
    );
    assert_eq!(bodies["default"], bodies["email"]);
    for protocol in ["email-json", "firehose", "http", "lambda"] {
        assert_eq!(bodies["sqs"], bodies[protocol], "{protocol}");
    }
}

#[test]
fn teams_can_subscribe_to_their_own() {
    let mut entry = revoked();
    expect![[r#"
        {
            "account": "111122223333",
            "control": "open-ingress",
            "outcome": "remediated",
            "region": "eu-central-1",
            "severity": "critical",
            "team": "team-web",
        }"#]]
    .assert_eq(&format!("{:#?}", compose(&entry).attributes));
    for none in [None, Some(String::new()), Some(" \n".to_owned())] {
        entry.head.team = none;
        assert_eq!(compose(&entry).attributes["team"], "unowned");
    }
}

#[test]
fn chat_applications_get_a_custom_notification() {
    let chat: Value = serde_json::from_str(&body(&compose(&narrowed()), "https")).unwrap();
    expect![[r#"
        {
          "content": {
            "description": "*What was allowed and is closed now*\n• LOST: tcp 8443, which sgr-0bbbbbbbbbbbbbbbb allowed: the group has as many rules as its quota allows, where a rule that names a prefix list counts as many as the list may have entries.\n*What was open*\n• tcp 0-79, tcp 81-442, tcp 444-8442, tcp 8444-9000 to the whole IPv4 internet (0.0.0.0/0), by rule sgr-0bbbbbbbbbbbbbbbb\n*What was done*\n• sgr-0bbbbbbbbbbbbbbbb was narrowed to tcp 80; a rule of its own keeps tcp 443 open.\n• Looked again: the exposure is closed.\n*Who touched it last, as the event states*\n• Who: arn:aws:sts::111122223333:assumed-role/developer/alice\n• Call: AuthorizeSecurityGroupIngress, 2026-11-24 09:59:56 UTC\n• From: 198.51.100.7\n• With: aws-cli/2.31.0\n*Good to know*\n• A rule for the whole internet also admits your private networks; they went with it (sgr-0bbbbbbbbbbbbbbbb). What used it from there needs a rule for its own range.\n• Connections that were open already may last: closing a port does not end them.",
            "keywords": [
              "open-ingress",
              "critical",
              "remediated",
              "team-web"
            ],
            "nextSteps": [
              "How to take it back: backstop undo 01KAT5J3V0QZ8Y2N4M6P8R0T2W --reason \"why it must be open\" puts everything back, with an opt-out, or it would be closed again. Without the command line: the commands under PUT IT BACK at the end of the mail. They give each rule an opt-out until 2027-02-22.",
              "How to opt out: Tag the rule, the security group, or its VPC where this account owns it: Key: backstop:opt-out Value: open-ingress until=2027-02-22 owner=team-web reason=why it must stay open",
              "Everything else: ledger entry 01KAT5J3V0QZ8Y2N4M6P8R0T2W"
            ],
            "textType": "client-markdown",
            "title": "FIXED critical: sg-0123456789abcdef0 (web) was open to the world on tcp 0-79, tcp 81-442, tcp 444-8442, tcp 8444-9000, LOST with it: tcp 8443"
          },
          "id": "be3ead4b74bd05c9c4004a02499ada6e",
          "metadata": {
            "additionalContext": {
              "account": "111122223333",
              "control": "open-ingress",
              "entry": "01KAT5J3V0QZ8Y2N4M6P8R0T2W",
              "outcome": "remediated",
              "region": "eu-central-1",
              "severity": "critical",
              "team": "team-web"
            },
            "eventType": "backstop-open-ingress",
            "relatedResources": [
              "arn:aws:ec2:eu-central-1:111122223333:security-group/sg-0123456789abcdef0"
            ],
            "summary": "FIXED critical: sg-0123456789abcdef0 (web) was open to the world on tcp 0-79, tcp 81-442, tcp 444-8442, tcp 8444-9000, LOST with it: tcp 8443",
            "threadId": "01KAT5J3V0QZ8Y2N4M6P8R0T2W"
          },
          "source": "custom",
          "version": "1.0"
        }"#]].assert_eq(&format!("{chat:#}"));
}

#[test]
fn nobody_is_mentioned_and_nothing_is_linked_in_chat() {
    let mut entry = revoked();
    entry.head.resource_name = "<!channel> [click](http://example.com) *now* `~x~`".to_owned();
    entry.head.actor.user_agent = Some("<@U024BE7LH|alice> <at>bob</at>".to_owned());
    let chat = body(&compose(&entry), "https");
    for markup in ["<", ">", "[click]", "*now*", "`", "~"] {
        assert!(!chat.contains(markup), "{markup}: {chat}");
    }
}

#[test]
fn programs_get_everything_that_people_get() {
    let data: Value = serde_json::from_str(&body(&compose(&narrowed()), "sqs")).unwrap();
    expect![[r#"
        {
          "account": "111122223333",
          "actor": {
            "event_id": "5ccee11b-74df-4b56-ae23-7a5c9f8f2d4e",
            "event_name": "AuthorizeSecurityGroupIngress",
            "event_time": "2026-11-24T09:59:56Z",
            "principal": "arn:aws:sts::111122223333:assumed-role/developer/alice",
            "source_address": "198.51.100.7",
            "user_agent": "aws-cli/2.31.0"
          },
          "attempts": 1,
          "changes": [
            {
              "authorise": [
                {
                  "from_port": 443,
                  "protocol": "tcp",
                  "to_port": 443,
                  "words": "tcp 443"
                },
                {
                  "from_port": 8443,
                  "protocol": "tcp",
                  "to_port": 8443,
                  "words": "tcp 8443"
                }
              ],
              "lost": [],
              "narrow_to": {
                "from_port": 80,
                "protocol": "tcp",
                "to_port": 80,
                "words": "tcp 80"
              },
              "rule": "sgr-0bbbbbbbbbbbbbbbb"
            }
          ],
          "control": "open-ingress",
          "entry": "01KAT5J3V0QZ8Y2N4M6P8R0T2W",
          "exemption": {
            "state": "none"
          },
          "exposures": [
            {
              "allowed": [
                "tcp 80",
                "tcp 443",
                "tcp 8443"
              ],
              "exemption": {
                "state": "none"
              },
              "exposed": [
                "tcp 0-79",
                "tcp 81-442",
                "tcp 444-8442",
                "tcp 8444-9000"
              ],
              "fingerprint": "0f0f0f0f0f0f0f0f0f0f0f0f0f0f0f0f",
              "private_part": true,
              "public_addresses": "3702258432",
              "rule": {
                "description": "everything; ask Bob",
                "id": "sgr-0bbbbbbbbbbbbbbbb",
                "source": "0.0.0.0/0",
                "source_kind": "ipv4",
                "traffic": {
                  "from_port": 0,
                  "protocol": "tcp",
                  "to_port": 9000,
                  "words": "tcp 0-9000"
                }
              }
            }
          ],
          "finished_at": "2026-11-24T10:00:01.5Z",
          "headline": "FIXED critical: sg-0123456789abcdef0 (web) was open to the world on tcp 0-79, tcp 81-442, tcp 444-8442, tcp 8444-9000, LOST with it: tcp 8443",
          "items": [
            {
              "after": {
                "description": "everything; ask Bob",
                "id": "sgr-0bbbbbbbbbbbbbbbb",
                "permission": {
                  "from_port": 80,
                  "protocol": "tcp",
                  "to_port": 80
                },
                "source": {
                  "kind": "ipv4",
                  "value": "0.0.0.0/0"
                },
                "tags": {
                  "service": "shop"
                }
              },
              "before": {
                "description": "everything; ask Bob",
                "id": "sgr-0bbbbbbbbbbbbbbbb",
                "permission": {
                  "from_port": 0,
                  "protocol": "tcp",
                  "to_port": 9000
                },
                "source": {
                  "kind": "ipv4",
                  "value": "0.0.0.0/0"
                },
                "tags": {
                  "service": "shop"
                }
              },
              "ending": {
                "result": "done"
              },
              "item": "sgr-0bbbbbbbbbbbbbbbb",
              "what": "tcp 0-79, tcp 81-442, tcp 444-8442, tcp 8444-9000 to the whole IPv4 internet (0.0.0.0/0), by rule sgr-0bbbbbbbbbbbbbbbb"
            }
          ],
          "key": "be3ead4b74bd05c9c4004a02499ada6e",
          "ledger_key": {
            "pk": "entry#01KAT5J3V0QZ8Y2N4M6P8R0T2W",
            "sk": "entry"
          },
          "omitted": {
            "changes": 0,
            "exposures": 0,
            "items": 0,
            "outcomes": 0
          },
          "outcome": "remediated",
          "outcomes": [
            {
              "created": "sgr-0cccccccccccccccc",
              "ending": {
                "result": "done"
              },
              "rule": "sgr-0bbbbbbbbbbbbbbbb",
              "step": "authorise",
              "traffic": {
                "from_port": 443,
                "protocol": "tcp",
                "to_port": 443,
                "words": "tcp 443"
              }
            },
            {
              "ending": {
                "result": "skipped",
                "why": "the group has as many rules as its quota allows, where a rule that names a prefix list counts as many as the list may have entries"
              },
              "rule": "sgr-0bbbbbbbbbbbbbbbb",
              "step": "authorise",
              "traffic": {
                "from_port": 8443,
                "protocol": "tcp",
                "to_port": 8443,
                "words": "tcp 8443"
              }
            },
            {
              "ending": {
                "result": "done"
              },
              "rule": "sgr-0bbbbbbbbbbbbbbbb",
              "step": "narrow",
              "traffic": {
                "from_port": 80,
                "protocol": "tcp",
                "to_port": 80,
                "words": "tcp 80"
              }
            }
          ],
          "policy_version": 1,
          "reasons": [],
          "region": "eu-central-1",
          "resource": {
            "arn": "arn:aws:ec2:eu-central-1:111122223333:security-group/sg-0123456789abcdef0",
            "id": "sg-0123456789abcdef0",
            "name": "web"
          },
          "severity": "critical",
          "started_at": "2026-11-24T10:00:00.25Z",
          "team": "team-web",
          "verification": {
            "by_others": [],
            "passed": true,
            "problems": []
          },
          "version": 1
        }"#]].assert_eq(&format!("{data:#}"));
}

#[test]
fn a_message_key_that_was_seen_is_a_message_that_was_sent() {
    let mut entry = revoked();
    let key = |entry: &Entry| {
        let data: Value = serde_json::from_str(&body(&compose(entry), "sqs")).unwrap();
        data["key"].as_str().unwrap().to_owned()
    };
    assert_eq!(key(&entry), entry.message_key());
    let before = key(&entry);
    entry.detail.outcomes[0].ending = Ending::AlreadyDone;
    assert_eq!(key(&entry), before, "the same end is the same message");
}
