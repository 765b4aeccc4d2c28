package main

import (
	"errors"
	"fmt"
)

func runDamage(args []string) error { return errors.New(fmt.Sprint("unexpected ", args)) }
