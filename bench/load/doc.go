// Package load drives a closed loop of writers against one operation and
// measures it.
//
// Every worker starts its next operation as soon as the last one returned, so
// the number of workers is the number of writes in flight: the shape of a
// server whose clients wait for their acknowledgements. Latency is what one
// worker saw, from the call to its return, in a log-linear histogram with an
// error below 1/32.
//
//	workers --op--> [ warm-up | measured window | stop ]
//
// The warm-up is not counted. Only operations which ended inside the window
// are, so that an engine gets no credit for work it had not acknowledged.
package load
