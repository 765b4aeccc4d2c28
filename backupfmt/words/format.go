package words

// Layout of an encoded frame: four parts, ops, lens, low, text, each
//
//	form u8: 0 as is, 1 zstd | length after decoding uvarint | stored length uvarint | data
//
// ops is carried out byte by byte until the streams and the length of the frame are used up:
//
//	0         run: n = next uvarint of lens, at least 1; n bytes of text are put out
//	1         new word: n = next uvarint of lens, 1..16; n bytes of text are put out and get the next free number, from 0
//	2..191    the word with number op-2 is put out
//	192..255  the word with number 190 + 256*(op-192) + next byte of low is put out
const (
	opRun   = 0
	opNew   = 1
	opShort = 2
	opLong  = 192

	short = opLong - opShort // numbers that need one byte

	// maxWord is the most that two machine words hold: words are compared, and copied, as such.
	maxWord = 16
	// maxWords is how many words a frame may have: every number that can be written.
	maxWords = short + (256-opLong)<<8

	formRaw  = 0
	formZstd = 1
	parts    = 4

	// maxFrame bounds the decoded length: the decoder notes places in 27 bits.
	maxFrame = 1<<27 - 1
)
