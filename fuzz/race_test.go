//go:build race

package fuzz

// raceEnabled: the tests were built with the race detector.
const raceEnabled = true
