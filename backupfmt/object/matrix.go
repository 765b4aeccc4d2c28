package object

// The parity of a group are values of the polynomial that goes through its data shards: shard i is the value at i, parity p the one at data+p, bytewise
// in GF(2^8) with the polynomial 0x11d. That is what the Vandermonde matrix of github.com/klauspost/reedsolomon comes to, which inverts it for that;
// Lagrange's formula gives the same rows in a thousandth of the time.

var gfExp, gfLog = func() (exp [510]byte, log [256]int) {
	x := 1
	for i := range 255 {
		exp[i], exp[i+255], log[x] = byte(x), byte(x), i
		if x <<= 1; x > 255 {
			x ^= 0x11d
		}
	}
	return exp, log
}()

// parityRows is the matrix that makes parity of data shards: rows of parity, columns of data. data+parity is at most 256.
func parityRows(data, parity int) [][]byte {
	// weight j is the logarithm of the product of j-m over all other data shards m. In this field minus is xor.
	weights := make([]int, data)
	for j := range weights {
		for m := range data {
			if m != j {
				weights[j] += gfLog[j^m]
			}
		}
	}
	rows := make([][]byte, parity)
	for p := range rows {
		x, all := data+p, 0
		for m := range data {
			all += gfLog[x^m]
		}
		rows[p] = make([]byte, data)
		for j := range rows[p] {
			rows[p][j] = gfExp[((all-gfLog[x^j]-weights[j])%255+255)%255]
		}
	}
	return rows
}
