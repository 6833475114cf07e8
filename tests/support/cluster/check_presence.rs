//! Who came and went, as the members of a load were told.
//!
//! In:    a book in which members joined one after another, and nodes were killed or not.
//! Out:   problems of a verdict.
//! Never: forgives an announcement too many: an outage of the broker makes nobody leave.

use super::book::{Book, Member, Micros, Mode};
use super::check::{Fault, Verdict};

/// "A dead node's members leave within 10 s."
pub const LEFT_WITHIN: Micros = 10_000_000;

/// A box that is alone for so long may be called dead by boxes that are not; it comes back.
const SILENT: Micros = 4_500_000;

/// Judges the announcements of all JSON rooms: everybody who joined later was announced once, who
/// was there before at most once, and only a killed node's members left: once, and soon. Members of
/// a box that alone was cut off for long may leave and come back.
pub fn judge(book: &Book, faults: &[Fault], verdict: &mut Verdict) {
    let mut wrong = Vec::new();
    for member in &book.members {
        if book.rooms[member.room].mode == Mode::Raw || book.nodes[member.node].until.is_some() {
            continue;
        }
        let of_room = book.members.iter().filter(|other| other.room == member.room);
        wrong.extend(of_room.filter_map(|other| told_wrong(book, faults, member, other)));
        let unknown = member.crossings.iter().filter(|crossing| {
            !book
                .members
                .iter()
                .any(|other| other.room == member.room && other.user == crossing.user)
        });
        wrong.extend(unknown.map(|crossing| format!("{} was told {crossing:?}", member.user)));
    }
    verdict.add("announcements", wrong);
}

/// Whether everybody has been told of everybody who came later, and of whoever was killed.
pub fn complete(book: &Book) -> bool {
    book.members.iter().all(|member| {
        let silent = book.rooms[member.room].mode == Mode::Raw;
        silent || book.nodes[member.node].until.is_some() || knows_all(book, member)
    })
}

fn knows_all(book: &Book, member: &Member) -> bool {
    let (Some(joined), room) = (member.joined, member.room) else { return false };
    book.members.iter().filter(|other| other.room == room).all(|other| {
        let came = other.joined < Some(joined) || count(member, other, true) > 0;
        let died = book.nodes[other.node].until;
        let went = died.is_none_or(|died| joined > died || count(member, other, false) > 0);
        came && went
    })
}

/// What a member was told wrongly of another, or of itself.
fn told_wrong(book: &Book, faults: &[Fault], member: &Member, other: &Member) -> Option<String> {
    let joins = count(member, other, true);
    let leaves = count(member, other, false);
    let room = &book.rooms[member.room].name;
    let who = format!(
        "{} of {room} on node {} was told {joins} times that {} of node {} joined and {leaves} \
         times that it left",
        member.user, member.node, other.user, other.node
    );
    let died = book.nodes[other.node].until;
    let (joined, other_joined) = (member.joined?, other.joined?);
    let may_come_back = usize::from(was_alone(faults, other.node, member.node));
    // Members join one after another: whoever joined later was not there.
    let joins_right = match other_joined >= joined {
        true => joins == 1 + leaves.min(may_come_back),
        false => (leaves.min(may_come_back)..=1 + may_come_back).contains(&joins),
    };
    let leaves_right = match died {
        None => leaves <= may_come_back,
        // It may have come while the dead were still counted, or after.
        Some(died) if joined > died => leaves <= 1,
        Some(died) => {
            let mut left = member
                .crossings
                .iter()
                .filter(|crossing| crossing.user == other.user && !crossing.joined);
            let soon =
                left.all(|crossing| crossing.at >= died && crossing.at - died <= LEFT_WITHIN);
            leaves == 1 && soon
        }
    };
    (!joins_right || !leaves_right).then_some(who)
}

/// Whether a box was cut off for long while another was not.
fn was_alone(faults: &[Fault], node: usize, other: usize) -> bool {
    let faulty = |node| faults.iter().filter(move |fault| fault.node == node);
    faulty(node).any(|fault| {
        let alone_until = fault.until;
        // The other's own clock stands still while it is cut off itself.
        let alone_from =
            faulty(other).map(|fault| fault.until).max().unwrap_or(fault.from).max(fault.from);
        alone_until.saturating_sub(alone_from) > SILENT
    })
}

fn count(member: &Member, other: &Member, joined: bool) -> usize {
    let of_other = |crossing: &&super::book::Crossing| {
        crossing.user == other.user && crossing.joined == joined
    };
    member.crossings.iter().filter(of_other).count()
}
