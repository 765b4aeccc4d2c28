package backupfmt

import (
	"encoding/hex"
	"fmt"
	"strings"

	"github.com/erlmcp/erlmcp/backupfmt/object"
)

// Names in the store. The tree is the same on every kind of store:
//
//	config, config.2               what the repository is; two copies
//	keys/<slot id>, ....2          key slots; two copies of each
//	epochs/<number>, ....2         wrapped epoch keys; two copies of each
//	head                           newest link of the chain; besides ledger the only object that is ever replaced
//	shards.auth                    which table of shards is the right one
//	manifests/<seq>                links of the chain, from 1
//	packs/<session>/<id>           chunks
//	lists/<session>/<id>           where the chunks of a run are
//	archive/<life>/<first index>   archived log
//	sessions/<session>             backups that have begun and not committed
//	proofs/<Unix ms, 16 hex>       what drills found
//	ledger                         when what was last read by a verification
const (
	nameConfig     = "config"
	nameHead       = "head"
	nameShards     = "shards.auth"
	secondCopy     = ".2"
	folderKeys     = "keys/"
	folderEpochs   = "epochs/"
	folderManifest = "manifests/"
	folderPacks    = "packs/"
	folderLists    = "lists/"
	folderArchive  = "archive/"
	folderSessions = "sessions/"
	folderProofs   = "proofs/"
)

func manifestName(seq uint64) string { return fmt.Sprintf("%s%016x", folderManifest, seq) }

func archiveName(life object.ID, first uint64) string {
	return fmt.Sprintf("%s%s/%016x", folderArchive, life, first)
}

// lastID is the object id at the end of a name.
func lastID(name string) (id object.ID, ok bool) {
	b, err := hex.DecodeString(name[strings.LastIndexByte(name, '/')+1:])
	if err != nil || len(b) != len(id) {
		return id, false
	}
	return object.ID(b), true
}

// parseNumber is the number at the end of a name, written as 16 hex digits.
func parseNumber(name string) (uint64, bool) {
	s := name[strings.LastIndexByte(name, '/')+1:]
	var n uint64
	if _, err := fmt.Sscanf(s, "%016x", &n); err != nil || fmt.Sprintf("%016x", n) != s {
		return 0, false
	}
	return n, true
}

func parseID(s string) (id object.ID, err error) {
	b, err := hex.DecodeString(s)
	if err != nil || len(b) != len(id) {
		return id, fmt.Errorf("%w: identity %q", ErrInvalid, s)
	}
	return object.ID(b), nil
}
