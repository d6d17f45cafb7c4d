package layers

import "hash/maphash"

// A table finds spots by parent and name: open addressing, linear probing. Spots
// are never taken out. The seed is random, so that no layer can be made of names
// that collide; nothing depends on the order of the slots.
type table struct {
	seed  maphash.Seed
	slots []slot // a power of two, at least half of them free
	used  int
}

// A slot is a spot's number and its hash. Spot 0, the root, is in no slot: an id of
// 0 means free.
type slot struct{ hash, id uint32 }

const firstSlots = 1 << 10

func newTable() table {
	return table{seed: maphash.MakeSeed(), slots: make([]slot, firstSlots)}
}

// hash is the hash of a name in a directory.
func (t *table) hash(dir uint32, name string) uint32 {
	h := maphash.String(t.seed, name) ^ (uint64(dir)+1)*0x9e3779b97f4a7c15
	return uint32((h * 0xff51afd7ed558ccd) >> 32)
}

// add puts in a spot that is not in the table yet.
func (t *table) add(hash, id uint32) {
	if t.used++; 2*t.used > len(t.slots) {
		old := t.slots
		t.slots = make([]slot, 2*len(old))
		for _, s := range old {
			if s.id != 0 {
				t.place(s)
			}
		}
	}
	t.place(slot{hash, id})
}

func (t *table) place(s slot) {
	i := t.first(s.hash)
	for t.slots[i].id != 0 {
		i = t.next(i)
	}
	t.slots[i] = s
}

// first is where to look for a hash, next where to go on.
func (t *table) first(hash uint32) uint32 { return hash & uint32(len(t.slots)-1) }
func (t *table) next(i uint32) uint32     { return (i + 1) & uint32(len(t.slots)-1) }
