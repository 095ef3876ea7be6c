//! The spool: what is put into it comes out again, in order, whatever ends hsup.

use bytes::Bytes;

use super::*;
use crate::logs::drain::parcel::FrameId;

fn parcel(n: u64) -> Parcel {
    parcel_of(n, 10)
}

fn parcel_of(n: u64, bytes: usize) -> Parcel {
    Parcel { id: FrameId(n.into()), lane: 0, lines: 1, body: Bytes::from(vec![0; bytes]), segment: None }
}

fn numbers(spool: &mut Spool) -> Vec<u128> {
    std::iter::from_fn(|| spool.read()).map(|parcel| parcel.id.0).collect()
}

fn files(dir: &Path) -> usize {
    fs::read_dir(dir.join("0")).unwrap().count()
}

#[test]
fn it_makes_nothing_before_it_is_needed() {
    let dir = tempfile::tempdir().unwrap();
    let mut spool = Spool::open(dir.path().join("drain"), 1 << 20, true);
    assert!(spool.is_empty() && spool.read().is_none() && !dir.path().join("drain").exists());
    spool.close(&[], &[]).unwrap();
    assert!(!dir.path().join("drain").exists());
}

#[test]
fn parcels_come_out_in_order_and_segments_go_when_they_have_been_sent() {
    let dir = tempfile::tempdir().unwrap();
    let mut spool = Spool::open(dir.path().to_owned(), 4 << 20, true);
    for n in 0..10 {
        spool.append(&parcel_of(n, 100 << 10)).unwrap();
    }
    assert_eq!((files(dir.path()), spool.waiting().1), (4, 10));
    let read: Vec<Parcel> = std::iter::from_fn(|| spool.read()).collect();
    assert_eq!(read.iter().map(|parcel| parcel.id.0).collect::<Vec<_>>(), (0..10).collect::<Vec<_>>());
    assert_eq!((files(dir.path()), spool.waiting()), (4, (0, 0)));
    for parcel in read.iter().rev() {
        spool.done(parcel.segment.unwrap());
    }
    assert_eq!(files(dir.path()), 0);
    spool.append(&parcel(10)).unwrap();
    assert_eq!(numbers(&mut spool), [10]);
}

#[test]
fn after_a_kill_everything_that_was_not_sent_is_there() {
    let dir = tempfile::tempdir().unwrap();
    let mut spool = Spool::open(dir.path().to_owned(), 4 << 20, true);
    (0..3).for_each(|n| spool.append(&parcel(n)).unwrap());
    assert_eq!(spool.read().map(|parcel| parcel.id.0), Some(0));
    drop(spool);
    let mut spool = Spool::open(dir.path().to_owned(), 4 << 20, true);
    spool.append(&parcel(3)).unwrap();
    assert_eq!(numbers(&mut spool), [0, 1, 2, 3]);
}

#[test]
fn at_the_end_what_was_read_goes_before_the_rest() {
    let dir = tempfile::tempdir().unwrap();
    for unread in [0, 2, 5] {
        let mut spool = Spool::open(dir.path().to_owned(), 4 << 20, true);
        assert!(spool.is_empty());
        (0..5).for_each(|n| spool.append(&parcel_of(n, 150 << 10)).unwrap());
        let read: Vec<Parcel> = (unread..5).filter_map(|_| spool.read()).collect();
        spool.close(&read, &[parcel(5), parcel(6)]).unwrap();
        let mut spool = Spool::open(dir.path().to_owned(), 4 << 20, true);
        assert_eq!(spool.waiting().1, 7, "{unread}");
        let all: Vec<Parcel> = std::iter::from_fn(|| spool.read()).collect();
        assert_eq!(all.iter().map(|parcel| parcel.id.0).collect::<Vec<_>>(), (0..7).collect::<Vec<_>>());
        all.iter().for_each(|parcel| spool.done(parcel.segment.unwrap()));
        assert_eq!(files(dir.path()), 0, "{unread}");
    }
}

#[test]
fn the_oldest_segment_is_dropped_and_its_unread_lines_are_counted() {
    let dir = tempfile::tempdir().unwrap();
    let mut spool = Spool::open(dir.path().to_owned(), 1 << 20, true);
    let mut dropped = 0;
    for n in 0..20 {
        while spool.is_full(100 << 10) {
            dropped += spool.drop_oldest();
        }
        spool.append(&parcel_of(n, 100 << 10)).unwrap();
    }
    let left = numbers(&mut spool);
    assert_eq!(dropped as usize + left.len(), 20);
    assert_eq!(left.last(), Some(&19));
    assert!(left.len() >= 7, "{left:?}");
}

#[test]
fn hsups_that_run_at_once_have_places_of_their_own_and_the_next_one_takes_over() {
    let dir = tempfile::tempdir().unwrap();
    let open = |adopts| Spool::open(dir.path().to_owned(), 1 << 20, adopts);
    let mut formation = open(true);
    formation.append(&parcel(1)).unwrap();
    let mut one_off = open(false);
    one_off.append(&parcel(2)).unwrap();
    assert_eq!(numbers(&mut one_off), [2]);
    formation.adopt();
    assert_eq!(formation.waiting().1, 1);
    one_off.close(&[], &[parcel(3)]).unwrap();
    let mut other = open(false);
    assert!(other.is_empty());
    other.append(&parcel(4)).unwrap();
    drop(other);
    formation.adopt();
    assert_eq!(formation.waiting().1, 4);
    let mut all = numbers(&mut formation);
    all.sort_unstable();
    assert_eq!(all, [1, 2, 3, 4]);
}

#[test]
fn what_cannot_be_read_is_left_and_keeps_nothing_else_back_and_nothing_is_sent_twice() {
    let dir = tempfile::tempdir().unwrap();
    let open = |adopts| Spool::open(dir.path().to_owned(), 4 << 20, adopts);
    let (mut formation, mut one_off) = (open(true), open(false));
    // two of them fill a segment
    (0..6).for_each(|n| formation.append(&parcel_of(n, 150 << 10)).unwrap());
    (6..12).for_each(|n| one_off.append(&parcel_of(n, 150 << 10)).unwrap());
    drop((formation, one_off));
    let unreadable = ["0", "1"].map(|place| dir.path().join(place).join(file_name(FIRST_SEGMENT + 1)));
    for path in &unreadable {
        fs::remove_file(path).unwrap();
        fs::create_dir(path).unwrap();
    }
    let mut formation = open(true);
    (0..2).for_each(|_| formation.adopt());
    formation.append(&parcel(12)).unwrap();
    let read: Vec<Parcel> = (0..5).filter_map(|_| formation.read()).collect();
    let numbers_of = |parcels: &[Parcel]| parcels.iter().map(|parcel| parcel.id.0).collect::<Vec<_>>();
    assert_eq!(numbers_of(&read), [0, 1, 4, 5, 6]);
    formation.close(&read, &[]).unwrap();
    assert!(unreadable.iter().all(|path| path.exists()));
    assert_eq!(numbers(&mut open(true)), [0, 1, 4, 5, 6, 7, 10, 11, 12]);
}
