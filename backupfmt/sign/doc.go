// Package sign holds the keys that sign a backup repository, and what exactly a signature covers.
//
// Encryption proves that an object was written by somebody who can read the repository. A signature proves that it was written by
// somebody who may write it: whoever restores, and whoever runs a drill, needs no private key. Keys are Ed25519 (RFC 8032).
//
// A signature is part of the object it is about, at the end of its clear section, so that both appear, are copied, sealed anew and healed
// together:
//
//	clear section: {...,"signature":"<public key><commitment><signature>"}      hex of 32, 32 and 64 bytes
//	extra bytes of the directory: salt (32), sealed like everything else
//	commitment = BLAKE3, keyed with the salt, of the frames: per frame its length u64 and its decoded bytes
//	signed bytes = "erlmcp backup signature v1\n", kind (1), repository id (16), object id (16), BLAKE3 of the clear section without
//	               its signature (32), commitment (32)
//
// What is signed is the meaning and not the stored bytes: a rekey, which seals objects anew, needs to sign nothing again. The salt keeps the
// commitment from betraying what is sealed to somebody who guesses. Without the encryption key the signature of the clear section can be
// verified, and with it the commitment as well.
package sign
