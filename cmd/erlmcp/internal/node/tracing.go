package node

import (
	"context"
	"fmt"
	"log/slog"
	"net/url"
	"os"
	"strings"
	"time"

	"go.opentelemetry.io/otel"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/exporters/otlp/otlptrace/otlptracehttp"
	"go.opentelemetry.io/otel/sdk/resource"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/trace"

	"github.com/erlmcp/erlmcp/internal/version"
)

// tracing sends spans to a collector. Spans wait in a bounded queue; what does not fit is dropped: no request waits for a collector.
type tracing struct {
	spans *sdktrace.TracerProvider
}

// openTracing returns nil when nobody asked for traces.
func (n *Node) openTracing() (*tracing, error) {
	endpoint := n.cfg.Tracing.Endpoint
	inEnv := os.Getenv("OTEL_EXPORTER_OTLP_ENDPOINT") != "" || os.Getenv("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT") != ""
	if strings.EqualFold(os.Getenv("OTEL_SDK_DISABLED"), "true") || endpoint == "" && !inEnv {
		return nil, nil
	}
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	var options []otlptracehttp.Option
	if endpoint != "" {
		u, err := url.Parse(endpoint)
		if err != nil {
			return nil, fmt.Errorf("tracing.endpoint: %w", err)
		}
		if strings.Trim(u.Path, "/") == "" {
			u.Path = "/v1/traces" // what OTEL_EXPORTER_OTLP_ENDPOINT means by a bare address
		}
		options = append(options, otlptracehttp.WithEndpointURL(u.String()))
	}
	exporter, err := otlptracehttp.New(ctx, options...)
	if err != nil {
		return nil, fmt.Errorf("tracing: %w", err)
	}
	about, err := resource.New(ctx,
		resource.WithAttributes(attribute.String("service.name", "erlmcp"), attribute.String("service.version", version.String())),
		resource.WithFromEnv(), resource.WithTelemetrySDK())
	if err != nil {
		n.log.Warn("tracing: part of the resource is not known", "error", err)
	}
	log := n.log.With("component", "tracing")
	otel.SetErrorHandler(otel.ErrorHandlerFunc(func(err error) { log.Warn("traces not sent", "error", err) }))
	setup := []sdktrace.TracerProviderOption{sdktrace.WithBatcher(exporter), sdktrace.WithResource(about)}
	if os.Getenv("OTEL_TRACES_SAMPLER") == "" {
		setup = append(setup, sdktrace.WithSampler(sdktrace.ParentBased(sdktrace.TraceIDRatioBased(n.cfg.Tracing.Sample))))
	}
	return &tracing{spans: sdktrace.NewTracerProvider(setup...)}, nil
}

// provider is for the runtime: a nil pointer in the interface would not be nil.
func (t *tracing) provider() trace.TracerProvider {
	if t == nil {
		return nil
	}
	return t.spans
}

// stop sends what is left, for a moment.
func (t *tracing) stop(log *slog.Logger) {
	if t == nil {
		return
	}
	ctx, cancel := context.WithTimeout(context.Background(), time.Second)
	defer cancel()
	if err := t.spans.Shutdown(ctx); err != nil {
		log.Warn("the last traces were not sent", "error", err)
	}
}
