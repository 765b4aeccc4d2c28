// Package guide holds the test that compiles and runs docs/guide.md.
package guide
