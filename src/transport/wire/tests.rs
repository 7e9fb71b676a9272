//! What members say to each other survives its encoding, and what is damaged or made up is refused.

use super::*;
use proptest::prelude::*;

const LIMITS: Limits = Limits {
    max_entry_bytes: 64,
    max_append_bytes: 1_024,
    max_append_entries: 16,
};

fn any_id() -> impl Strategy<Value = LogId> {
    (0..u64::MAX / 2, 0..u64::MAX / 2).prop_map(|(t, i)| LogId::new(Term(t), LogIndex(i)))
}

fn any_append() -> impl Strategy<Value = (Body, Vec<Entry>)> {
    let payloads = prop::collection::vec(
        (0..3u64, 0..3u8, prop::collection::vec(any::<u8>(), 0..64)),
        0..16,
    );
    (any_id(), any::<u64>(), any::<u64>(), payloads).prop_map(|(prev, commit, round, parts)| {
        let mut last = prev;
        let mut entries = Vec::new();
        for (step, kind, payload) in parts {
            last = LogId::new(Term(last.term.0 + step), last.index.next());
            let kind = EntryKind::from_u8(kind).unwrap();
            entries.push(Entry {
                id: last,
                kind,
                payload: payload.into(),
            });
        }
        let range = EntryRange { prev, last };
        let runs = runs_of(&entries);
        (
            Body::Append {
                range,
                runs,
                commit: LogIndex(commit),
                round,
            },
            entries,
        )
    })
}

fn any_message() -> impl Strategy<Value = (Message, Vec<Entry>)> {
    let body = prop_oneof![
        any_id().prop_map(|last| (Body::PreVote { last }, Vec::new())),
        any_id().prop_map(|last| (Body::Vote { last }, Vec::new())),
        any_id().prop_map(|last| (Body::HandoverVote { last }, Vec::new())),
        Just((Body::TimeoutNow, Vec::new())),
        any::<bool>().prop_map(|granted| (Body::PreVoteReply { granted }, Vec::new())),
        any::<bool>().prop_map(|granted| (Body::VoteReply { granted }, Vec::new())),
        (any::<u64>(), any::<u64>()).prop_map(|(upto, round)| {
            let outcome = AppendOutcome::Matched {
                upto: LogIndex(upto),
            };
            (Body::AppendReply { outcome, round }, Vec::new())
        }),
        (any::<u64>(), any_id(), any::<u64>()).prop_map(|(prev, hint, round)| {
            let outcome = AppendOutcome::Rejected {
                prev: LogIndex(prev),
                hint,
            };
            (Body::AppendReply { outcome, round }, Vec::new())
        }),
        (any_id(), any::<u64>())
            .prop_map(|(last, round)| (Body::Snapshot { last, round }, Vec::new())),
        any::<u64>().prop_map(|round| {
            let outcome = AppendOutcome::Fetching;
            (Body::AppendReply { outcome, round }, Vec::new())
        }),
        any::<u64>().prop_map(|ask| (Body::AskReadIndex { ask }, Vec::new())),
        (any::<u64>(), any::<u64>()).prop_map(|(ask, index)| {
            let index = LogIndex(index);
            (Body::ReadIndex { ask, index }, Vec::new())
        }),
        any_append(),
    ];
    (any::<u64>(), body).prop_map(|(term, (body, entries))| {
        (
            Message {
                term: Term(term),
                body,
            },
            entries,
        )
    })
}

fn decode_frame(frame: &[u8]) -> Result<(Message, Vec<Entry>), Malformed> {
    let mut head = [0; FRAME_HEAD_BYTES];
    head.copy_from_slice(&frame[..FRAME_HEAD_BYTES]);
    let (len, crc) = decode_head(&head, max_body_bytes(&LIMITS))?;
    let body = &frame[FRAME_HEAD_BYTES..];
    assert_eq!(len, body.len());
    check_body(body, crc)?;
    decode_body(body, &LIMITS, || body.into())
}

fn encode_frame(message: &Message, entries: &[Entry]) -> Vec<u8> {
    let mut out = Gathered::default();
    put_frame(&mut out, message, entries);
    out.to_vec()
}

proptest! {
    #[test]
    fn a_message_survives_its_encoding((message, entries) in any_message()) {
        let frame = encode_frame(&message, &entries);
        prop_assert_eq!(decode_frame(&frame), Ok((message, entries)));
    }

    #[test]
    fn a_flipped_bit_in_a_body_is_noticed((message, entries) in any_message(), at: prop::sample::Index, bit in 0..8u8) {
        let mut frame = encode_frame(&message, &entries);
        let at = FRAME_HEAD_BYTES + at.index(frame.len() - FRAME_HEAD_BYTES);
        frame[at] ^= 1u8 << bit;
        prop_assert!(decode_frame(&frame).is_err());
    }

    #[test]
    fn a_body_of_anything_is_refused_or_sound(body in prop::collection::vec(any::<u8>(), 0..256)) {
        if let Ok((message, entries)) = decode_body(&body, &LIMITS, || body.clone().into()) {
            let frame = encode_frame(&message, &entries);
            prop_assert_eq!(&frame[FRAME_HEAD_BYTES..], body.as_slice());
        }
    }
}

#[test]
fn what_reads_of_followers_say_is_these_bytes() {
    let bytes = |body: Body| {
        let (mut out, term) = (Vec::new(), Term(2));
        put_body(&mut out, &Message { term, body }, 0);
        out
    };
    let word = |number: u8| [number, 0, 0, 0, 0, 0, 0, 0];
    let (ask, index) = (3, LogIndex(4));
    let expected = [&[14][..], &word(2), &word(3)].concat();
    assert_eq!(bytes(Body::AskReadIndex { ask }), expected);
    let expected = [&[15][..], &word(2), &word(3), &word(4)].concat();
    assert_eq!(bytes(Body::ReadIndex { ask, index }), expected);
}

#[test]
fn a_length_over_the_limit_is_refused_before_anything_is_allocated() {
    let head = [0xff, 0xff, 0xff, 0x7f, 0, 0, 0, 0];
    let refused = decode_head(&head, max_body_bytes(&LIMITS)).unwrap_err();
    assert_eq!(refused.what, "length of a frame, over the limit");
}

#[test]
fn a_count_of_entries_is_not_believed() {
    let mut body = vec![5];
    for _ in 0..5 {
        body.put_u64(0);
    }
    body.put_u32(16);
    let refused = decode_body(&body, &LIMITS, || body.clone().into()).unwrap_err();
    assert_eq!(refused.what, "number of entries");
}

#[test]
fn a_hello_survives_its_encoding_and_a_flipped_bit_does_not() {
    let identity = Identity {
        cluster: ClusterId(7),
        node: NodeId(1),
        incarnation: 0x1234_5678_9abc_def0,
    };
    let hello = Hello {
        lane: LaneKind::Entries,
        from: identity,
        to: NodeId(2),
        addr: "10.0.0.1:7000".to_owned(),
    };
    let decode = |bytes: &[u8]| {
        let (head, addr) = bytes.split_first_chunk().unwrap();
        let len = Hello::addr_bytes(head)?;
        Hello::decode(head, addr.get(..len).ok_or(Refusal::Garbage)?)
    };
    let mut bytes = hello.encode();
    assert_eq!(decode(&bytes), Ok(hello));
    for bit in 0..8 * bytes.len() {
        bytes[bit / 8] ^= 1 << (bit % 8);
        assert!(decode(&bytes).is_err(), "bit {bit}");
        bytes[bit / 8] ^= 1 << (bit % 8);
    }
    bytes[48..52].copy_from_slice(&u32::MAX.to_le_bytes());
    assert_eq!(
        decode(&bytes),
        Err(Refusal::Garbage),
        "a length over the limit"
    );
}

#[test]
fn an_answer_carries_its_verdict() {
    let all = [
        Refusal::Garbage,
        Refusal::Version,
        Refusal::Cluster,
        Refusal::Node,
        Refusal::Incarnation,
    ];
    for refusal in all {
        let bytes = encode_answer(Err(refusal), 7).try_into().unwrap();
        assert_eq!(decode_answer(&bytes), Err(refusal));
    }
    let bytes = encode_answer(Ok(()), 7).try_into().unwrap();
    assert_eq!(decode_answer(&bytes), Ok(7));
}
