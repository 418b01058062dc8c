"""Where peers were last seen."""

from hypothesis import given
from hypothesis import strategies as st

from p2ptrain.ids import PeerId
from p2ptrain.swarm.address_book import MAX_ADDRESSES, MAX_PEERS, AddressBook, worth_telling

ME, A, B = PeerId("me"), PeerId("a"), PeerId("b")


def at(peer: PeerId, host: str = "10.0.0.1") -> str:
    return f"/ip4/{host}/tcp/4001/p2p/{peer}"


def test_what_a_peer_says_itself_outweighs_what_others_say() -> None:
    book = AddressBook(ME)
    book.heard_of(A, [at(A, "10.0.0.9")])
    book.met(A, [at(A)], 5.0)
    book.heard_of(A, [at(A, "10.0.0.8")])
    assert book.addresses() == [at(A)]
    book.met(A, [], 6.0)
    assert book.newest(1)[0].addresses == (at(A),)
    book.met(A, [at(A, "10.0.0.2")], 7.0)
    assert book.addresses() == [at(A, "10.0.0.2")], "it moved to another network"


def test_addresses_of_other_peers_and_of_ourselves_are_not_kept() -> None:
    book = AddressBook(ME)
    book.met(A, [at(B), "nonsense/p2p/a", "/ip4/" + "1" * 400 + "/p2p/a"], 1.0)
    book.met(ME, [at(ME)], 1.0)
    assert book.contacts == {}
    book.met(A, [at(A, f"10.0.0.{i}") for i in range(50)], 1.0)
    assert len(book.contacts[A].addresses) == MAX_ADDRESSES


def test_book_stays_small_and_forgets_first_whom_it_only_heard_of() -> None:
    book = AddressBook(ME)
    book.met(A, [at(A)], 1.0)
    for i in range(3 * MAX_PEERS):
        peer = PeerId(f"p{i}")
        book.heard_of(peer, [at(peer)])
    assert len(book.contacts) == MAX_PEERS
    assert A in book.contacts


def test_book_survives_the_disk_and_damage_only_costs_entries() -> None:
    book = AddressBook(ME)
    book.met(A, [at(A)], 1.0)
    book.met(B, [at(B)], 2.0)
    text = book.to_json()
    assert AddressBook.from_json(ME, text).newest(5) == book.newest(5)
    for length in range(len(text)):
        assert AddressBook.from_json(ME, text[:length]).contacts == {}


@given(st.text() | st.from_regex(r"\[.*\]"))
def test_any_text_in_the_file_is_survived(text: str) -> None:
    assert len(AddressBook.from_json(ME, text).contacts) <= MAX_PEERS


def test_loopback_addresses_are_told_only_if_there_are_no_others() -> None:
    local, lan = at(A, "127.0.0.1"), at(A)
    assert worth_telling([local, lan]) == [lan]
    assert worth_telling([local]) == [local]
